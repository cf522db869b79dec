-- Ends what `notebook-rt doctor --sql TABLE…` began for some tables; without any left, all that it made goes.
-- It may be run more than once, and whatever version of that SQL is there.
do $$
declare
    v_name text;
    v_drop text;
begin
    foreach v_name in array '{}'::text[] loop  -- the tables
        if to_regclass(v_name) is null then
            raise notice 'notebook_rt: there is no table %; what dropped tables had left goes', v_name;
        end if;
        if to_regprocedure('notebook_rt.broadcast_remove(regclass)') is not null then
            perform notebook_rt.broadcast_remove(to_regclass(v_name));
        end if;
    end loop;
    if to_regclass('notebook_rt.broadcast_tables') is null then
        return;
    end if;
    if exists (select from notebook_rt.broadcast_tables) then
        return;
    end if;
    if (select by_cron from notebook_rt.broadcast_state)
        and exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        perform cron.unschedule(jobname)
           from cron.job where jobname = 'notebook_rt_broadcast_prune' and username = current_user;
    end if;
    drop table notebook_rt.change_log;
    for v_drop in
        select format('drop function %s', p.oid::regprocedure) from pg_catalog.pg_proc p
         where p.pronamespace = 'notebook_rt'::regnamespace and starts_with(p.proname, 'broadcast_')
            or p.pronamespace = 'public'::regnamespace
               and p.proname in ('notebook_rt_head', 'notebook_rt_heads', 'notebook_rt_since')
    loop
        execute v_drop;
    end loop;
    drop table notebook_rt.broadcast_tables, notebook_rt.broadcast_state;
    drop table if exists notebook_rt.broadcast_numbers;  -- version 1 had no scope
end $$;
