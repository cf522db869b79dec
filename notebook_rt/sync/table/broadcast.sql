-- Changes by broadcast for notebook_rt (optional; `notebook-rt doctor --sql TABLE…` prints this).
--
-- Statement triggers write what changed to a log; a deferred trigger sends a transaction's changes at its
-- commit, in as few numbered messages as fit, in one private topic a table. `notebook_rt_head` and
-- `notebook_rt_since` read the log under the reader's own rights. It may be run more than once.
--
-- What writers pay: about 0.5 to 0.8 ms for a statement of one row, 13 ms for 1,000 rows, and as much
-- disk as the changes of a day have as JSON, at most about 256 MB.
--
-- Row policies of a table do not apply to what is broadcast: whoever may read the topic reads the
-- changes of every row. Why it is built so: docs/design/broadcast.md.

create schema if not exists notebook_rt;
grant usage on schema notebook_rt to anon, authenticated, service_role;

create table if not exists notebook_rt.broadcast_tables (
    topic text primary key,
    relation oid not null unique,
    numbers regclass not null,  -- the sequence that numbers the topic's messages
    epoch text not null default gen_random_uuid()::text  -- another one: the numbers began anew
);
create table if not exists notebook_rt.change_log (
    id bigint generated always as identity primary key,
    topic text not null,
    xid xid8 not null default pg_current_xact_id(),
    op "char" not null,  -- I, U: rows; D: gone; T: all rows are gone; R: unknown, read the table again
    rows jsonb,
    gone jsonb,
    size int not null,
    at timestamptz not null default clock_timestamp()
);
create index if not exists change_log_xid on notebook_rt.change_log (xid, topic, id);
create table if not exists notebook_rt.broadcast_state (
    one boolean primary key default true check (one),
    version int not null,
    pruned xid8 not null default '0',  -- no transaction after this one lost an entry of the log
    by_cron boolean not null default false
);
insert into notebook_rt.broadcast_state (version) values (1)
    on conflict (one) do update set version = excluded.version;

alter table notebook_rt.broadcast_tables enable row level security;
alter table notebook_rt.change_log enable row level security;
alter table notebook_rt.broadcast_state enable row level security;
drop policy if exists everybody on notebook_rt.broadcast_state;
create policy everybody on notebook_rt.broadcast_state for select using (true);
revoke all on notebook_rt.broadcast_tables, notebook_rt.change_log, notebook_rt.broadcast_state
    from anon, authenticated, service_role;
grant select on notebook_rt.broadcast_tables, notebook_rt.change_log, notebook_rt.broadcast_state
    to anon, authenticated, service_role;

-- The names of a table's key now: a column may have been renamed since the triggers were made.
create or replace function notebook_rt.broadcast_key(p_relation oid) returns text[]
language sql stable set search_path = '' as $$
    select pg_catalog.array_agg(a.attname::text order by k.place)
      from pg_catalog.pg_index i
      cross join lateral unnest(i.indkey::int2[]) with ordinality k (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where i.indrelid = p_relation and i.indisprimary and k.place <= i.indnkeyatts
$$;

-- One statement's changes go to the log, in entries below 100 kB of JSON; a row above 50 kB has its own.
create or replace function notebook_rt.broadcast_capture() returns trigger
language plpgsql security definer set search_path = '' set timezone = 'UTC' set datestyle = 'ISO'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
    v_topic text;
    v_key text[];
    v_object text;
    v_gone text;
    v_entries constant text :=
        'insert into notebook_rt.change_log (topic, op, %1$s, size)'
        ' select $1, $2::"char", jsonb_agg(j order by rn), sum(len) from ('
        '   select j, rn, len, case when len > 50000 then rn end as alone,'
        '          sum(len) over (order by rn) / 100000 as part'
        '   from (select j, row_number() over () as rn, octet_length(j::text) + 2 as len'
        '         from (%2$s) a) b) c'
        ' group by part, alone order by min(rn)';
begin
    select t.topic into v_topic from notebook_rt.broadcast_tables t where t.relation = tg_relid;
    if v_topic is null then
        return null;
    end if;
    v_key := notebook_rt.broadcast_key(tg_relid);
    if tg_op = 'TRUNCATE' or v_key is null then
        insert into notebook_rt.change_log (topic, op, size)
        values (v_topic, case when tg_op = 'TRUNCATE' then 'T' else 'R' end, 20);
        return null;
    end if;
    if tg_op in ('INSERT', 'UPDATE') then
        execute format(v_entries, 'rows', 'select to_jsonb(n) as j from new_rows n')
            using v_topic, left(tg_op, 1);
        if tg_op = 'INSERT' then
            return null;
        end if;
    end if;
    select 'jsonb_build_object(' || string_agg(format('%1$L, r.%1$I', k), ', ') || ')'
      into v_object from unnest(v_key) k;
    v_gone := format('select %s as j from old_rows r', v_object);
    if tg_op = 'UPDATE' then
        -- As JSON: a key that is equal and not the same (citext) is another key to a client.
        v_gone := v_gone || format(' except select %s from new_rows r', v_object);
    end if;
    -- A key that one statement frees and takes again is not gone for it: the triggers of a MERGE run in the
    -- order delete, update, insert, those of an upsert in the order update, insert.
    execute format(v_entries, 'gone', v_gone) using v_topic, 'D';
    return null;
end $$;

-- A message that cannot be sent is a warning, as in realtime.send: readers see the hole in the numbers.
-- `p_common`: what all messages of the transaction say.
drop function if exists notebook_rt.broadcast_message(
    notebook_rt.broadcast_tables, int, jsonb[], boolean);
create or replace function notebook_rt.broadcast_message(
    p_table notebook_rt.broadcast_tables, p_part int, p_changes jsonb[], p_last boolean, p_common jsonb
) returns void language plpgsql set search_path = '' as $$
declare
    v_number bigint := nextval(p_table.numbers);
begin
    perform realtime.send(
        p_common || jsonb_build_object('epoch', p_table.epoch, 'n', v_number, 'part', p_part,
                                       'last', p_last, 'changes', to_jsonb(p_changes)),
        'changes', p_table.topic, true);
exception when others then
    raise warning 'notebook_rt: message % of topic "%" was not sent: %', v_number, p_table.topic, sqlerrm;
end $$;

-- Deletes a little of what is older than a day, or more than about 256 MB; returns how many entries.
create or replace function notebook_rt.broadcast_prune(
    p_limit int default 1000, p_keep interval default '1 day', p_bytes bigint default 268435456
) returns bigint language plpgsql security definer set search_path = '' as $$
declare
    v_low bigint;
    v_high bigint;
    v_bytes numeric;
    v_last bigint := 0;
    v_deleted bigint;
    v_xid xid8;
    -- What began later than the oldest open transaction stays, so that no position of now is too old.
    v_before constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
    perform from notebook_rt.broadcast_state for update skip locked;
    if not found then
        return 0;  -- somebody else is at it
    end if;
    select min(id), max(id) into v_low, v_high from notebook_rt.change_log;
    -- The size is estimated: exact counts would need a row that all writers wait for.
    select avg(s.size) * (v_high - v_low + 1) into v_bytes
      from generate_series(0, 49) i cross join lateral (
        select l.size from notebook_rt.change_log l
         where l.id >= v_low + (v_high - v_low) * i / 49 order by l.id limit 1) s;
    if v_bytes > p_bytes then
        v_last := v_low + ((v_high - v_low + 1) * (1 - p_bytes / v_bytes))::bigint;
    end if;
    with old as (
        select l.id from notebook_rt.change_log l order by l.id limit p_limit
    ), gone as (
        delete from notebook_rt.change_log l using old
         where l.id = old.id and l.xid < v_before and (l.at < now() - p_keep or l.id < v_last)
        returning l.xid
    )
    select count(*), max(xid::text::numeric)::text::xid8 into v_deleted, v_xid from gone;
    if v_deleted > 0 then
        update notebook_rt.broadcast_state set pruned = greatest(pruned, v_xid);
    end if;
    return v_deleted;
end $$;

-- At commit, once a transaction: what it logged and has not sent.
create or replace function notebook_rt.broadcast_flush() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_xid constant xid8 := pg_current_xact_id();
    v_sent bigint := coalesce(nullif(current_setting('notebook_rt.sent', true), ''), '0')::bigint;
    v_last bigint := v_sent;
    v_before constant text := coalesce(current_setting('realtime.topic', true), '');
    -- As near to the commit as a trigger comes; the log's entries of the transaction say the same.
    v_at constant timestamptz := clock_timestamp();
    v_common jsonb := jsonb_build_object('x', v_xid::text, 'at', extract(epoch from v_at));
    v_topics text[];
    v_table notebook_rt.broadcast_tables;
    v_entry record;
    v_change jsonb;
    v_changes jsonb[];
    v_bytes int;
    v_add int;
    v_part int;
begin
    if new.id <= v_sent then
        return null;
    end if;
    select array_agg(distinct l.topic) into v_topics
      from notebook_rt.change_log l where l.xid = v_xid and l.id > v_sent;
    if cardinality(v_topics) between 2 and 50 then  -- readers of one may not know the others' names
        v_common := v_common || jsonb_build_object('topics', (
            select jsonb_agg(left(md5(topic), 8)) from unnest(v_topics) topic));
    end if;
    for v_table in
        select t.* from notebook_rt.broadcast_tables t where t.topic = any (v_topics) order by t.topic
    loop
        v_changes := '{}';
        v_bytes := 0;
        v_part := 0;
        for v_entry in
            select l.id, l.op, l.rows, l.gone, l.size, l.at from notebook_rt.change_log l
             where l.xid = v_xid and l.topic = v_table.topic and l.id > v_sent order by l.id
        loop
            v_last := greatest(v_last, v_entry.id);
            v_change := jsonb_build_object('id', v_entry.id, 'op', v_entry.op);
            if v_entry.size > 230000 and v_entry.rows is not null then
                v_change := v_change || jsonb_build_object('big', (  -- too large for any message
                    select jsonb_agg((select jsonb_object_agg(k, r -> k)
                      from unnest(notebook_rt.broadcast_key(v_table.relation)) k))
                      from jsonb_array_elements(v_entry.rows) r));
            elsif v_entry.rows is not null then
                v_change := v_change || jsonb_build_object('rows', v_entry.rows);
            elsif v_entry.gone is not null then
                v_change := v_change || jsonb_build_object('gone', v_entry.gone);
            end if;
            v_add := octet_length(v_change::text) + 2;
            if v_bytes > 0 and v_bytes + v_add > 240000 then
                v_part := v_part + 1;
                perform notebook_rt.broadcast_message(v_table, v_part, v_changes, false, v_common);
                v_changes := '{}';
                v_bytes := 0;
            end if;
            v_changes := v_changes || v_change;
            v_bytes := v_bytes + v_add;
        end loop;
        perform notebook_rt.broadcast_message(v_table, v_part + 1, v_changes, true, v_common);
        if v_entry.at < v_at - interval '10 ms' then  -- it went on after its last change
            update notebook_rt.change_log set at = v_at where id = v_entry.id;
        end if;
    end loop;
    perform set_config('realtime.topic', v_before, true);
    perform set_config('notebook_rt.sent', v_last::text, true);
    -- A stricter isolation would make the writer's own commit fail for the log's sake.
    if random() < 0.02 and current_setting('transaction_isolation') = 'read committed'
        and not (select by_cron from notebook_rt.broadcast_state) then
        perform notebook_rt.broadcast_prune();
    end if;
    return null;
end $$;
drop trigger if exists flush on notebook_rt.change_log;
create constraint trigger flush after insert on notebook_rt.change_log
    deferrable initially deferred for each row execute function notebook_rt.broadcast_flush();

-- Why a table's changes cannot be broadcast truly; null: they can.
create or replace function notebook_rt.broadcast_refused(p_relation regclass, p_policy text)
returns text language plpgsql stable set search_path = '' as $$
declare
    v_class pg_catalog.pg_class;
    v_name text;
begin
    select * into v_class from pg_catalog.pg_class where oid = p_relation;
    if v_class.relkind not in ('r', 'p') or v_class.relpersistence = 't' then
        return 'it is not a permanent table';
    end if;
    if notebook_rt.broadcast_key(p_relation) is null then
        return 'it has no primary key; add one';
    end if;
    if v_class.relispartition then
        select i.inhparent::regclass::text into v_name
          from pg_catalog.pg_inherits i where i.inhrelid = p_relation;
        return format('it is a partition; broadcast %s and write through that', v_name);
    end if;
    select i.inhrelid::regclass::text into v_name from pg_catalog.pg_inherits i
     where v_class.relkind = 'r' and i.inhparent = p_relation limit 1;
    if found then
        return format('%s inherits from it, and writes to that are not seen', v_name);
    end if;
    select t.relid::text into v_name
      from pg_catalog.pg_partition_tree(p_relation) t
      join pg_catalog.pg_class c on c.oid = t.relid
      cross join lateral pg_catalog.aclexplode(c.relacl) a
     where v_class.relkind = 'p' and t.relid <> p_relation and a.grantee <> c.relowner
       and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
     limit 1;
    if found then
        return format('its partition %s may be written directly, which is not seen; revoke insert, '
            'update, delete, truncate on it and write through %s', v_name, p_relation);
    end if;
    -- Such a trigger's own write is logged before the statement that fired it: the older row last. A write
    -- in a function that the trigger calls is not found here.
    select g.tgname into v_name
      from pg_catalog.pg_trigger g
      join pg_catalog.pg_proc p on p.oid = g.tgfoid
      join pg_catalog.pg_language l on l.oid = p.prolang
     where g.tgrelid = p_relation and not g.tgisinternal
       and g.tgtype & 1 = 1 and g.tgtype & 66 = 0  -- for each row, neither before nor instead of
       and (l.lanname not in ('plpgsql', 'sql') or p.prosrc ~* '\mexecute\M' or p.prosrc ~* (
            '\m(insert\s+into|merge\s+into|update|delete\s+from|truncate)\s+((table|only)\s+)*'
            '(("[^"]*"|[\w$]+)\s*\.\s*)?"?'
            || regexp_replace(replace(v_class.relname, '"', '""'), '(\W)', '\\\1', 'g') || '"?(\W|$)'))
     limit 1;
    if found then
        return format('its AFTER ROW trigger %I writes, or may write, to the table itself; do that in '
            'a BEFORE ROW trigger', v_name);
    end if;
    if v_class.relrowsecurity and p_policy is null then
        return 'it has row-level security, which does not apply to broadcasts; say who may read the '
            'changes of all rows: source_policy => ''auth.uid() is not null''';
    end if;
    return null;
end $$;

create or replace function notebook_rt.broadcast_remove(p_relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
    v_table notebook_rt.broadcast_tables;
    v_trigger text;
    v_policy constant text := 'notebook_rt_broadcast_' || p_relation::oid;
begin
    foreach v_trigger in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('drop trigger if exists %I on %s', 'notebook_rt_' || v_trigger, p_relation);
    end loop;
    execute format('drop policy if exists %I on realtime.messages', v_policy);
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send');
    execute format('drop policy if exists %I on notebook_rt.change_log', v_policy);
    execute format('drop policy if exists %I on notebook_rt.broadcast_tables', v_policy);
    delete from notebook_rt.broadcast_tables where relation = p_relation returning * into v_table;
    if found then
        delete from notebook_rt.change_log where topic = v_table.topic;
        execute format('drop sequence if exists %s', v_table.numbers);
    end if;
end $$;

-- Makes a table's changes broadcast; again: with the policy that is said now. Returns the topic.
create or replace function notebook_rt.broadcast_add(
    p_relation regclass, source_policy text default null
) returns text language plpgsql set search_path = '' as $$
declare
    v_refused constant text := notebook_rt.broadcast_refused(p_relation, source_policy);
    v_policy constant text := 'notebook_rt_broadcast_' || p_relation::oid;
    v_numbers constant text := 'notebook_rt.broadcast_numbers_' || p_relation::oid;
    v_topic text;
    v_reads text;
    v_sender text;
    v_other record;
    v_event record;
begin
    if v_refused is not null then
        raise exception 'the changes of table % cannot be broadcast: %', p_relation, v_refused;
    end if;
    select format('nrt:%I.%I', n.nspname, c.relname) into v_topic
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.oid = p_relation;
    for v_other in  -- tables that were dropped since
        select t.* from notebook_rt.broadcast_tables t
         where not exists (select from pg_catalog.pg_class c where c.oid = t.relation)
    loop
        execute format('drop policy if exists %I on realtime.messages',
                       'notebook_rt_broadcast_' || v_other.relation);
        execute format('drop policy if exists %I on realtime.messages',
                       'notebook_rt_broadcast_' || v_other.relation || '_send');
        execute format('drop policy if exists %I on notebook_rt.change_log',
                       'notebook_rt_broadcast_' || v_other.relation);
        execute format('drop policy if exists %I on notebook_rt.broadcast_tables',
                       'notebook_rt_broadcast_' || v_other.relation);
        execute format('drop sequence if exists %s', v_other.numbers);
        delete from notebook_rt.change_log where topic = v_other.topic;
        delete from notebook_rt.broadcast_tables where topic = v_other.topic;
    end loop;
    -- A table that was renamed keeps its topic.
    select coalesce((select t.topic from notebook_rt.broadcast_tables t
                      where t.relation = p_relation), v_topic) into v_topic;
    execute format('create sequence if not exists %s', v_numbers);
    execute format('revoke all on sequence %s from anon, authenticated, service_role', v_numbers);
    execute format('grant select on sequence %s to anon, authenticated, service_role', v_numbers);
    insert into notebook_rt.broadcast_tables (topic, relation, numbers)
        values (v_topic, p_relation, v_numbers::regclass)
        on conflict (topic) do nothing;
    -- The channel and the log say the same. The row's own topic is tested, too: realtime.topic() alone
    -- would show the rows of all topics once it names this one.
    v_reads := format('topic = %L and pg_catalog.has_table_privilege(%s::oid, ''select'') and (%s)',
                      v_topic, p_relation::oid, coalesce(source_policy, 'true'));
    execute format('drop policy if exists %I on realtime.messages', v_policy);
    execute format('create policy %I on realtime.messages for select to anon, authenticated using '
        '(extension = ''broadcast'' and realtime.topic() = %L and %s)', v_policy, v_topic, v_reads);
    -- Whoever owns the functions sends; policies may hold for that role, too.
    select p.proowner::regrole::text into v_sender
      from pg_catalog.pg_proc p where p.oid = 'notebook_rt.broadcast_flush'::regproc;
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send');
    execute format('create policy %I on realtime.messages for insert to %s with check '
        '(extension = ''broadcast'' and private and topic = %L)', v_policy || '_send', v_sender,
        v_topic);
    execute format('drop policy if exists %I on notebook_rt.change_log', v_policy);
    execute format('create policy %I on notebook_rt.change_log for select to anon, authenticated '
        'using (%s)', v_policy, v_reads);
    execute format('drop policy if exists %I on notebook_rt.broadcast_tables', v_policy);
    execute format('create policy %I on notebook_rt.broadcast_tables for select '
        'to anon, authenticated using (%s)', v_policy, v_reads);
    for v_event in
        select * from (values ('insert', 'referencing new table as new_rows'),
                              ('update', 'referencing old table as old_rows new table as new_rows'),
                              ('delete', 'referencing old table as old_rows'),
                              ('truncate', '')) e (name, tables)
    loop
        execute format('create or replace trigger %I after %s on %s %s for each statement '
            'execute function notebook_rt.broadcast_capture()', 'notebook_rt_' || v_event.name,
            v_event.name, p_relation, v_event.tables);
    end loop;
    return v_topic;
end $$;

revoke all on function notebook_rt.broadcast_key, notebook_rt.broadcast_capture,
    notebook_rt.broadcast_message, notebook_rt.broadcast_prune, notebook_rt.broadcast_flush,
    notebook_rt.broadcast_refused, notebook_rt.broadcast_remove, notebook_rt.broadcast_add
    from public, anon, authenticated, service_role;

-- A table's topic, a position (a snapshot), and the highest number drawn; null: nothing that this login
-- may read. The snapshot is older than the reading of the number, so that whatever the position sees has
-- a number of at most `n`.
create or replace function public.notebook_rt_head(p_schema text, p_table text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
    select jsonb_build_object(
        'version', (select version from notebook_rt.broadcast_state), 'topic', t.topic,
        'epoch', t.epoch, 'position', pg_current_snapshot()::text,
        'n', coalesce(pg_catalog.pg_sequence_last_value(t.numbers), 0))
      from notebook_rt.broadcast_tables t
     where t.relation = (
        select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n
            on n.oid = c.relnamespace where n.nspname = p_schema and c.relname = p_table)
$$;

-- What was committed between `p_position` and `p_until` (now, for the first page), in the order of the log,
-- after the entry `p_after`, a page of about `p_bytes`. The last page has "more": false; then "until" is
-- the new position. "too_old": entries that are needed were pruned. "behind": bytes, on the first page.
-- Null: this login may not read the topic.
create or replace function public.notebook_rt_since(
    p_topic text, p_position text, p_until text default null, p_after bigint default 0,
    p_bytes int default 1000000
) returns jsonb language sql stable security invoker set search_path = '' as $$
    with bounds as (
        select p_position::pg_snapshot as since,
               coalesce(p_until::pg_snapshot, pg_current_snapshot()) as until
    ), missed as (
        select l.id, l.xid, l.op, l.rows, l.gone, l.size, l.at,
               sum(l.size) over (order by l.id) - l.size as before
          from notebook_rt.change_log l, bounds b
         where l.topic = p_topic and l.id > p_after and l.xid >= pg_snapshot_xmin(b.since)
           and not pg_visible_in_snapshot(l.xid, b.since) and pg_visible_in_snapshot(l.xid, b.until)
    )
    select jsonb_build_object(
        'until', b.until::text,
        'too_old', (select s.pruned >= pg_snapshot_xmin(b.since) from notebook_rt.broadcast_state s),
        'behind', case when p_until is null then (select coalesce(sum(m.size), 0) from missed m) end,
        'more', exists (select from missed m where m.before >= greatest(p_bytes, 1)),
        'changes', coalesce((
            select jsonb_agg(jsonb_build_object('id', m.id, 'x', m.xid::text, 'op', m.op,
                'at', extract(epoch from m.at)) || case
                when m.rows is not null then jsonb_build_object('rows', m.rows)
                when m.gone is not null then jsonb_build_object('gone', m.gone)
                else '{}' end order by m.id)
              from missed m where m.before < greatest(p_bytes, 1)), '[]'))
      from bounds b
     where exists (select from notebook_rt.broadcast_tables t where t.topic = p_topic)
$$;
revoke all on function public.notebook_rt_head, public.notebook_rt_since from public;
grant execute on function public.notebook_rt_head, public.notebook_rt_since
    to anon, authenticated, service_role;

-- Where there is pg_cron, and this role may use it, it prunes every minute, and writers need not.
update notebook_rt.broadcast_state set by_cron = false;
do $$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
        perform cron.schedule('notebook_rt_broadcast_prune', '* * * * *',
                              'select notebook_rt.broadcast_prune(100000)');
        update notebook_rt.broadcast_state set by_cron = true;
    end if;
exception when insufficient_privilege then
    raise notice 'notebook_rt: writers prune the log of changes; pg_cron refused: %', sqlerrm;
end $$;
