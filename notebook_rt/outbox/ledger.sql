-- Exactly-once sums and integer keys for notebook_rt (optional; `notebook-rt doctor --sql` prints this).
--
-- An edit of a column merged by "delta" is sent as a difference together with the operation's id.
-- The id is kept in the same transaction, so an operation whose answer was lost can be sent again
-- and is applied once. Without this function such an operation is kept in `conflicts` instead.
--
-- An integer key that nobody gave is drawn from its column's sequence before the row is sent, so that
-- an insert whose answer was lost can be sent again.
--
-- Many edits are one request: each row is written on the condition of what its edit was based on, by
-- itself, so that one that is refused does not take the others along.
--
-- All functions run with the caller's own rights: grants and row-level security hold. Their own words are
-- those of pg_catalog alone; a write, with its triggers, has the search_path that a request to PostgREST
-- for the table's schema has. Deferred constraints are checked under it, too, before they return.

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

-- What a request to PostgREST for this schema has: the schema, then what the role or the database has set.
create or replace function notebook_rt.request_path(p_schema text) returns text
language sql
stable
security invoker
set search_path = pg_catalog
as $$
    select concat_ws(', ', quote_ident(p_schema), nullif(s.reset_val, ''), 'public, extensions')
      from pg_settings s where s.name = 'search_path'
$$;

create or replace function public.notebook_rt_write(
    p_op text, p_schema text, p_table text, p_key jsonb, p_set jsonb, p_base jsonb, p_add jsonb
) returns jsonb
language plpgsql
security invoker
set search_path = pg_catalog
as $$
declare
    v_table text := format('%I.%I', p_schema, p_table);
    v_path text := notebook_rt.request_path(p_schema);
    v_where text;
    v_set text;
    v_row jsonb;
begin
    select string_agg(format('t.%1$I = (jsonb_populate_record(null::%2$s, $1)).%1$I', c, v_table),
                      ' and ')
      into v_where from jsonb_object_keys(p_key) as c;

    insert into notebook_rt.ledger (op) values (p_op) on conflict do nothing;
    if not found then  -- it was applied before, and the answer was lost
        perform set_config('search_path', v_path, true);
        execute format('select to_jsonb(t) from %s t where %s', v_table, v_where)
            into v_row using p_key;
        perform pg_catalog.set_config('search_path', 'pg_catalog', true);
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

    perform set_config('search_path', v_path, true);
    execute format('update %s t set %s where %s returning to_jsonb(t)', v_table, v_set, v_where)
        into v_row using p_key, p_set, p_base, p_add;
    perform pg_catalog.set_config('search_path', 'pg_catalog', true);
    perform notebook_rt.check_deferred(v_path);
    if v_row is null then  -- another base, or no such row; the id is rolled back with this
        raise exception 'nothing matched' using errcode = 'NRT01';
    end if;
    return jsonb_build_object('row', v_row, 'before', false);
end
$$;

drop function if exists notebook_rt.write_row(text, jsonb);  -- an earlier version's
create or replace function notebook_rt.write_row(p_table text, p_op jsonb, p_path text) returns jsonb
language plpgsql
security invoker
set search_path = pg_catalog
as $$
declare
    v_where text;
    v_set text;
    v_row jsonb;
begin
    select string_agg(format('t.%1$I = (jsonb_populate_record(null::%2$s, $1)).%1$I', c, p_table),
                      ' and ')
      into v_where from jsonb_object_keys(p_op -> 'key') as c;
    select v_where || coalesce(string_agg(format(
               ' and to_jsonb(t.%1$I) is not distinct from '
               'to_jsonb((jsonb_populate_record(null::%2$s, $2)).%1$I)', c, p_table), ''), '')
      into v_where from jsonb_object_keys(p_op -> 'base') as c;
    if p_op ? 'set' then
        select string_agg(format('%1$I = (jsonb_populate_record(null::%2$s, $3)).%1$I', c, p_table),
                          ', ')
          into v_set from jsonb_object_keys(p_op -> 'set') as c;
        perform set_config('search_path', p_path, true);
        execute format('update %s t set %s where %s returning to_jsonb(t)', p_table, v_set, v_where)
            into v_row using p_op -> 'key', p_op -> 'base', p_op -> 'set';
    else
        perform set_config('search_path', p_path, true);
        execute format('delete from %s t where %s returning to_jsonb(t)', p_table, v_where)
            into v_row using p_op -> 'key', p_op -> 'base';
    end if;
    perform pg_catalog.set_config('search_path', 'pg_catalog', true);
    return jsonb_build_object('row', v_row);  -- null: another base, or no such row
end
$$;

-- Deferred constraints and triggers, under the path of the write.
create or replace function notebook_rt.check_deferred(p_path text) returns void
language plpgsql
security invoker
set search_path = pg_catalog
as $$
begin
    perform set_config('search_path', p_path, true);
    set constraints all immediate;
end
$$;

create or replace function public.notebook_rt_write_many(
    p_schema text, p_table text, p_ops jsonb
) returns jsonb
language plpgsql
security invoker
set search_path = pg_catalog
as $$
declare
    v_table text := format('%I.%I', p_schema, p_table);
    v_path text := notebook_rt.request_path(p_schema);
    v_op jsonb;
    v_result jsonb;
    v_results jsonb[] := '{}';
    v_code text;
    v_message text;
    v_details text;
    v_hint text;
begin
    begin  -- most often none is refused: a savepoint a row would cost more than the row
        for v_op in select o from jsonb_array_elements(p_ops) as o loop
            v_results := v_results || notebook_rt.write_row(v_table, v_op, v_path);
        end loop;
        perform notebook_rt.check_deferred(v_path);
        return jsonb_build_object('version', 1, 'results', to_jsonb(v_results));
    exception when others then
        v_results := '{}';
    end;
    for v_op in select o from jsonb_array_elements(p_ops) as o loop
        begin
            v_result := notebook_rt.write_row(v_table, v_op, v_path);
            perform notebook_rt.check_deferred(v_path);
            v_results := v_results || v_result;
        exception when others then
            get stacked diagnostics v_code = returned_sqlstate, v_message = message_text,
                v_details = pg_exception_detail, v_hint = pg_exception_hint;
            v_results := v_results || jsonb_build_object('error', jsonb_build_object(
                'code', v_code, 'message', v_message, 'details', nullif(v_details, ''),
                'hint', nullif(v_hint, '')));
        end;
    end loop;
    return jsonb_build_object('version', 1, 'results', to_jsonb(v_results));
end
$$;

create or replace function public.notebook_rt_keys(
    p_schema text, p_table text, p_column text, p_count integer
) returns bigint[]
language plpgsql
security invoker
set search_path = pg_catalog
as $$
declare
    v_table regclass := format('%I.%I', p_schema, p_table)::regclass;
    v_sequence regclass;
    v_keys bigint[];
begin
    select s.oid into v_sequence  -- that of the default, whoever owns it
      from pg_attribute c
      join pg_attrdef a on a.adrelid = c.attrelid and a.adnum = c.attnum
      join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid
       and d.refclassid = 'pg_class'::regclass
      join pg_class s on s.oid = d.refobjid and s.relkind = 'S'
     where c.attrelid = v_table and c.attname = p_column
       and pg_get_expr(a.adbin, a.adrelid) ~ '^nextval\(''[^'']+''::regclass\)$';
    v_sequence := coalesce(
        v_sequence, pg_get_serial_sequence(format('%I.%I', p_schema, p_table), p_column)::regclass);
    if v_sequence is null then
        raise exception 'no sequence makes it' using errcode = 'NRT02';
    elsif exists (select from pg_attribute
                   where attrelid = v_table and attname = p_column and attidentity = 'a') then
        raise exception 'it is "generated always": make it "generated by default"'
            using errcode = 'NRT03';
    elsif not has_sequence_privilege(v_sequence, 'usage, update') then
        -- That of an identity column gives its keys to whoever may insert.
        raise exception 'its sequence may not be used; run: grant usage on sequence % to %',
            v_sequence, quote_ident(current_user)
            using errcode = case when exists (
                select from pg_attribute
                 where attrelid = v_table and attname = p_column and attidentity = 'd')
                then 'NRT03' else 'NRT02' end;
    end if;
    begin
        for _ in 1 .. least(p_count, 1024) loop
            v_keys := v_keys || nextval(v_sequence);
        end loop;
    exception when sequence_generator_limit_exceeded then
        if v_keys is null then  -- else the last ones are given, not lost
            raise exception '%', sqlerrm using errcode = 'NRT02';
        end if;
    end;
    return v_keys;
end
$$;

revoke all on function public.notebook_rt_write from public;
revoke all on function notebook_rt.request_path from public;
revoke all on function notebook_rt.write_row from public;
revoke all on function notebook_rt.check_deferred from public;
revoke all on function public.notebook_rt_write_many from public;
revoke all on function public.notebook_rt_keys from public;
grant execute on function public.notebook_rt_write to anon, authenticated, service_role;
grant execute on function notebook_rt.request_path to anon, authenticated, service_role;
grant execute on function notebook_rt.check_deferred to anon, authenticated, service_role;
grant execute on function notebook_rt.write_row to anon, authenticated, service_role;
grant execute on function public.notebook_rt_write_many to anon, authenticated, service_role;
grant execute on function public.notebook_rt_keys to anon, authenticated, service_role;
notify pgrst, 'reload schema';
