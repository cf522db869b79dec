-- Exactly-once sums for notebook_rt (optional; `notebook-rt doctor --sql` prints this).
--
-- An edit of a column merged by "delta" is sent as a difference together with the operation's id.
-- The id is kept in the same transaction, so an operation whose answer was lost can be sent again
-- and is applied once. Without this function such an operation is kept in `conflicts` instead.
-- The function runs with the caller's own rights: grants and row-level security hold.

create schema if not exists notebook_rt;

create table if not exists notebook_rt.ledger (
    op text not null,
    login text not null default coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', current_user),
    at timestamptz not null default now(),
    primary key (op, login)
);
comment on table notebook_rt.ledger is
    'Operations that were applied. Rows older than the oldest unsent queue may be deleted.';

alter table notebook_rt.ledger enable row level security;
drop policy if exists own on notebook_rt.ledger;
create policy own on notebook_rt.ledger using (
    login = coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', current_user));

grant usage on schema notebook_rt to anon, authenticated, service_role;
grant select, insert on notebook_rt.ledger to anon, authenticated, service_role;

create or replace function public.notebook_rt_write(
    p_op text, p_schema text, p_table text, p_key jsonb, p_set jsonb, p_base jsonb, p_add jsonb
) returns jsonb
language plpgsql
security invoker
set search_path = pg_catalog
as $$
declare
    v_table text := format('%I.%I', p_schema, p_table);
    v_where text;
    v_set text;
    v_row jsonb;
begin
    select string_agg(format('t.%1$I = (jsonb_populate_record(null::%2$s, $1)).%1$I', c, v_table),
                      ' and ')
      into v_where from jsonb_object_keys(p_key) as c;

    insert into notebook_rt.ledger (op) values (p_op) on conflict do nothing;
    if not found then  -- it was applied before, and the answer was lost
        execute format('select to_jsonb(t) from %s t where %s', v_table, v_where)
            into v_row using p_key;
        return jsonb_build_object('row', v_row, 'before', true);
    end if;

    select string_agg(term, ', ') into v_set from (
        select format('%1$I = (jsonb_populate_record(null::%2$s, $2)).%1$I', c, v_table) as term
          from jsonb_object_keys(p_set) as c
        union all
        select format('%1$I = t.%1$I + (jsonb_populate_record(null::%2$s, $4)).%1$I', c, v_table)
          from jsonb_object_keys(p_add) as c
    ) as terms;

    select v_where || coalesce(string_agg(format(
               ' and to_jsonb(t.%1$I) is not distinct from '
               'to_jsonb((jsonb_populate_record(null::%2$s, $3)).%1$I)', c, v_table), ''), '')
      into v_where from jsonb_object_keys(p_base) as c;

    execute format('update %s t set %s where %s returning to_jsonb(t)', v_table, v_set, v_where)
        into v_row using p_key, p_set, p_base, p_add;
    if v_row is null then  -- another base, or no such row; the id is rolled back with this
        raise exception 'nothing matched' using errcode = 'NRT01';
    end if;
    return jsonb_build_object('row', v_row, 'before', false);
end
$$;

revoke all on function public.notebook_rt_write from public;
grant execute on function public.notebook_rt_write to anon, authenticated, service_role;
notify pgrst, 'reload schema';
