-- Without any table left, what `notebook-rt doctor --sql TABLE…` made goes, too.
do $$
begin
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
    drop function public.notebook_rt_head, public.notebook_rt_since;
    -- Older ones did not have these.
    drop function if exists public.notebook_rt_heads, notebook_rt.broadcast_prune_numbers,
        notebook_rt.broadcast_lock, notebook_rt.broadcast_epoch,
        notebook_rt.broadcast_present;
    drop table notebook_rt.change_log;
    drop function notebook_rt.broadcast_source, notebook_rt.broadcast_add,
        notebook_rt.broadcast_remove, notebook_rt.broadcast_forget, notebook_rt.broadcast_refused,
        notebook_rt.broadcast_flush, notebook_rt.broadcast_prune, notebook_rt.broadcast_message,
        notebook_rt.broadcast_number, notebook_rt.broadcast_capture, notebook_rt.broadcast_scope,
        notebook_rt.broadcast_value, notebook_rt.broadcast_topic, notebook_rt.broadcast_key;
    drop table notebook_rt.broadcast_tables, notebook_rt.broadcast_numbers,
        notebook_rt.broadcast_state;
end $$;
