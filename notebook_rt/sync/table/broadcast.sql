-- Changes by broadcast for notebook_rt (optional; `notebook-rt doctor --sql TABLE…` prints this).
--
-- Statement triggers write what changed to a log; a deferred trigger sends a transaction's changes at its
-- commit, in as few numbered messages as fit, in one private topic a table, or, with a scope, in one for
-- each value of a column (`user_id`). `notebook_rt_head` and `notebook_rt_since` read the log under the
-- reader's own rights. It may be run more than once.
--
-- What writers pay: about 0.5 to 0.8 ms for a statement of one row, 13 ms for 1,000 rows, and as much
-- disk as the changes of a day have as JSON, at most about 256 MB.
--
-- Row policies of a table do not apply to what is broadcast: whoever may read the topic reads the
-- changes of every row, with a scope of every row of that value. Why it is built so:
-- docs/design/broadcast.md.

create schema if not exists notebook_rt;
grant usage on schema notebook_rt to anon, authenticated, service_role;

-- Whoever writes to a table holds it and then waits for the log. So all tables are locked first, in one step
-- that gives up before PostgreSQL looks for a deadlock (deadlock_timeout, a second), and is tried again, in
-- another order, as writers have theirs: else a writer would be what fails.
create or replace function notebook_rt.broadcast_lock(p_relations regclass[]) returns void
language plpgsql set search_path = '' as $$
declare
    v_before constant text := current_setting('lock_timeout');
    v_relations oid[] := p_relations::oid[];
    v_relation text;
begin
    if to_regclass('notebook_rt.broadcast_tables') is not null then
        v_relations := v_relations || array(select t.relation from notebook_rt.broadcast_tables t);
    end if;
    for v_try in 1..30 loop
        begin
            perform set_config('lock_timeout', 700 / (cardinality(v_relations) + 5) + 1 || 'ms', true);
            for v_relation in
                select c.oid::regclass::text from pg_catalog.pg_class c
                 where c.oid = any (v_relations) and c.relkind in ('r', 'p') order by random()
            loop
                begin
                    -- As `drop trigger` takes it.
                    execute format('lock table %s in access exclusive mode', v_relation);
                exception when insufficient_privilege then
                    null;
                end;
            end loop;
            for v_relation in  -- version 1 had no numbers, a first run has none of them
                select format('notebook_rt.%I', o.name)
                  from unnest(array['broadcast_state', 'broadcast_tables', 'broadcast_numbers', 'change_log'])
                  with ordinality o (name, place)
                 where to_regclass('notebook_rt.' || o.name) is not null order by o.place
            loop
                execute format('lock table %s in access exclusive mode', v_relation);
            end loop;
            perform set_config('lock_timeout', v_before, true);
            return;
        exception when lock_not_available or deadlock_detected then
            null;
        end;
        perform pg_sleep(0.05 + random() * 0.2);
    end loop;
    raise lock_not_available using
        message = 'notebook_rt: the tables that are broadcast are in use by long transactions',
        hint = 'Nothing was changed. Run it again when these are over.';
end $$;
select notebook_rt.broadcast_lock('{}'::regclass[]);  -- and the tables of now

create table if not exists notebook_rt.broadcast_tables (
    topic text primary key,
    relation oid not null unique,
    numbers regclass,  -- the sequence that numbers the topic's messages; null: it has a scope
    epoch text not null default gen_random_uuid()::text,  -- of the log: another one: the numbers began anew
    scope int2,  -- the column of whose values each has a topic: this one's name, "=" and the value
    told boolean  -- whether it was said who reads, by a policy or a scope; null: older SQL did not note it
);
-- The SQL of version 1 knew no scope.
alter table notebook_rt.broadcast_tables add column if not exists scope int2,
    add column if not exists told boolean, alter column numbers drop not null;
-- The numbers of a table with a scope. A topic's latest number is the sum of `n` over its rows and those
-- of the table's own topic, which count what is told to all values. A counter goes when the log has nothing
-- of its value any more; the next one counts from 1, in another series.
create table if not exists notebook_rt.broadcast_numbers (
    topic text not null,
    counter boolean not null default false,  -- the one that is counted up; others are only added
    n bigint not null,
    -- The first and the latest entry of the log that a counter has counted; the first names the series.
    first bigint not null default 0,
    last bigint not null default 0
);
-- The SQL of version 2 kept every counter.
alter table notebook_rt.broadcast_numbers add column if not exists first bigint not null default 0,
    add column if not exists last bigint not null default 0;
create index if not exists broadcast_numbers_topic on notebook_rt.broadcast_numbers (topic);
create unique index if not exists broadcast_numbers_counter
    on notebook_rt.broadcast_numbers (topic) where counter;
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
insert into notebook_rt.broadcast_state (version) values (3)
    on conflict (one) do update set version = excluded.version;
-- A dump that was restored elsewhere has transactions of there, which are no past of these.
do $$
begin
    update notebook_rt.broadcast_state set pruned = '0'
     where pruned >= pg_snapshot_xmax(pg_current_snapshot());
    if not found and not exists (
        select from notebook_rt.change_log where xid >= pg_snapshot_xmax(pg_current_snapshot())) then
        return;
    end if;
    delete from notebook_rt.change_log where xid >= pg_snapshot_xmax(pg_current_snapshot());
    update notebook_rt.broadcast_tables set epoch = gen_random_uuid()::text;
end $$;

alter table notebook_rt.broadcast_tables enable row level security;
alter table notebook_rt.broadcast_numbers enable row level security;
alter table notebook_rt.change_log enable row level security;
alter table notebook_rt.broadcast_state enable row level security;
drop policy if exists everybody on notebook_rt.broadcast_state;
create policy everybody on notebook_rt.broadcast_state for select using (true);
revoke all on notebook_rt.broadcast_tables, notebook_rt.broadcast_numbers, notebook_rt.change_log,
    notebook_rt.broadcast_state from anon, authenticated, service_role;
grant select on notebook_rt.broadcast_tables, notebook_rt.broadcast_numbers, notebook_rt.change_log,
    notebook_rt.broadcast_state to anon, authenticated, service_role;
drop function if exists
    notebook_rt.broadcast_message(notebook_rt.broadcast_tables, int, jsonb[], boolean),
    notebook_rt.broadcast_message(notebook_rt.broadcast_tables, text, int, jsonb[], boolean, jsonb),
    notebook_rt.broadcast_number(text, text), notebook_rt.broadcast_epoch(notebook_rt.broadcast_tables),
    notebook_rt.broadcast_refused(regclass, text), notebook_rt.broadcast_add(regclass, text),
    public.notebook_rt_head(text, text);

-- The names of a table's key now: a column may have been renamed since the triggers were made.
create or replace function notebook_rt.broadcast_key(p_relation oid) returns text[]
language sql stable set search_path = '' as $$
    select pg_catalog.array_agg(a.attname::text order by k.place)
      from pg_catalog.pg_index i
      cross join lateral unnest(i.indkey::int2[]) with ordinality k (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where i.indrelid = p_relation and i.indisprimary and k.place <= i.indnkeyatts
$$;

-- What a reader knows of a table's log holds within one: another key, as another log, is another epoch. So are
-- other partitions, which come and go with their rows and fire no trigger; and each start of the server, for
-- before it the database may have been restored from a copy, whose transactions go on from an earlier one.
create or replace function notebook_rt.broadcast_epoch(p_epoch text, p_relation oid) returns text
language sql stable set search_path = '' as $$
    select p_epoch || '.' || coalesce(left(md5(
        notebook_rt.broadcast_key(p_relation)::text || extract(epoch from pg_postmaster_start_time())
        || coalesce((
        -- As of which transaction: one may have been changed while it was none.
        select string_agg(format('%s:%s', i.inhrelid, i.xmin), ',' order by i.inhrelid)
          from pg_catalog.pg_partition_tree(p_relation) t
          join pg_catalog.pg_inherits i on i.inhrelid = t.relid where t.level > 0), '')), 8), '')
$$;

-- Whether a table's changes are not told any more: it has got row-level security, and nobody said who reads;
-- or it has become a partition or a parent, and is written to through another table, which is not seen.
create or replace function notebook_rt.broadcast_closed(p_told boolean, p_relation oid) returns boolean
language sql stable set search_path = '' as $$
    select exists (
        select from pg_catalog.pg_class c where c.oid = p_relation
           and (c.relrowsecurity and not coalesce(p_told, true) or c.relispartition
                or c.relkind = 'r' and c.relhassubclass
                   and exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid)))
$$;

-- The topic of a value of a table's scope. Whatever the value is, the name is of plain letters, and no two
-- values have the same; null and a value of more than 100 bytes have none.
create or replace function notebook_rt.broadcast_topic(p_table text, p_value text) returns text
language sql immutable strict as $$
    select case
        when pg_catalog.octet_length(p_value) > 100 then null
        when p_value collate "C" ~ '^[A-Za-z0-9_-]+$' then p_table || '=' || p_value
        else p_table || '=~' || pg_catalog.encode(pg_catalog.convert_to(p_value, 'UTF8'), 'hex') end
$$;

-- The value of a topic, as text that can be cast to its type; null: it is no topic of this table.
create or replace function notebook_rt.broadcast_value(p_topic text, p_table text, p_type regtype)
returns text language plpgsql immutable strict set search_path = '' as $$
declare
    v_value text := substr(p_topic, length(p_table) + 2);
begin
    if not starts_with(p_topic, p_table || '=') then
        return null;
    end if;
    if starts_with(v_value, '~') then
        begin
            v_value := convert_from(decode(substr(v_value, 2), 'hex'), 'UTF8');
        exception when others then
            return null;
        end;
    end if;
    if notebook_rt.broadcast_topic(p_table, v_value) is distinct from p_topic then
        return null;
    elsif p_type = 'uuid'::regtype then
        return substring(v_value from '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$');
    elsif p_type in ('text'::regtype, 'varchar'::regtype) then
        return v_value;
    elsif v_value !~ '^(0|-?[1-9][0-9]{0,18})$' then
        return null;
    end if;
    return case when v_value::numeric between -b.most - 1 and b.most then v_value end
      from (select case p_type when 'int2'::regtype then 32767 when 'int4'::regtype then 2147483647
                   else 9223372036854775807 end as most) b;
end $$;

-- The name and the type of the column that is a table's scope; no row: it was dropped.
create or replace function notebook_rt.broadcast_scope(
    p_table notebook_rt.broadcast_tables, out name text, out type regtype
) returns setof record language sql stable set search_path = '' as $$
    select a.attname::text, a.atttypid::regtype from pg_catalog.pg_attribute a
     where a.attrelid = p_table.relation and a.attnum = p_table.scope and not a.attisdropped
$$;

-- That a row `t` has the key of a row `r`, by the operators of the key's index, as there is no search path.
-- Null: not all rows of the table can be seen here.
create or replace function notebook_rt.broadcast_same(p_relation oid) returns text
language sql stable set search_path = '' as $$
    select string_agg(
               format('t.%1$I operator(%2$I.%3$s) r.%1$I', a.attname, n.nspname, o.oprname), ' and ')
      from pg_catalog.pg_index i
      cross join lateral unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k (attnum, class, place)
      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
      join pg_catalog.pg_opclass c on c.oid = k.class
      join pg_catalog.pg_am m on m.oid = c.opcmethod and m.amname = 'btree'
      join pg_catalog.pg_amop e on e.amopfamily = c.opcfamily and e.amopstrategy = 3
       and e.amoplefttype = c.opcintype and e.amoprighttype = c.opcintype
      join pg_catalog.pg_operator o on o.oid = e.amopopr
      join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
     where i.indrelid = p_relation and i.indisprimary and k.place <= i.indnkeyatts
       and pg_catalog.has_table_privilege(p_relation, 'select')
       and not pg_catalog.row_security_active(p_relation)
$$;

-- Which of an UPDATE's rows `r` are to be told: those that are still in the table; null: all are. Where one
-- cascade of a statement updates a row and another deletes it, PostgreSQL may run the triggers for the
-- deletions first, and the row would be back. Only such tables are looked at.
create or replace function notebook_rt.broadcast_present(p_relation oid) returns text
language sql stable set search_path = '' as $$
    select format(' where exists (select from %s t where %s)',
                  p_relation::regclass, notebook_rt.broadcast_same(p_relation))
     where (select bool_or(f.confdeltype = 'c')
                   and bool_or(f.confdeltype in ('n', 'd') or f.confupdtype in ('c', 'n', 'd'))
              from pg_catalog.pg_constraint f where f.conrelid = p_relation and f.contype = 'f')
       and notebook_rt.broadcast_same(p_relation) is not null
$$;

-- Of a table with a deferrable key, what asks whether a statement left several rows with one key, or has
-- taken away one of several: which one, an entry cannot say. Null: the key is an ordinary one.
create or replace function notebook_rt.broadcast_unclear(p_relation oid, p_op text) returns text
language sql stable set search_path = '' as $$
    select case when s.same is null then 'select true' else 'select ' || concat_ws(' or ',
        case when p_op <> 'DELETE' then format('exists (select from new_rows r where '
            '(select count(*) from %1$s t where %2$s) > 1)', i.indrelid::regclass, s.same) end,
        case when p_op <> 'INSERT' then format('exists (select from old_rows r where '
            'exists (select from %1$s t where %2$s)', i.indrelid::regclass, s.same)
            || case when p_op = 'UPDATE' then format(' and not exists (select from new_rows t where %s)', s.same)
               else '' end || ')' end) end
      from pg_catalog.pg_index i
      cross join lateral (select notebook_rt.broadcast_same(p_relation) as same) s
     where i.indrelid = p_relation and i.indisprimary and not i.indimmediate
$$;

-- One statement's changes go to the log, in entries below 100 kB of JSON; a row above 50 kB has its own.
create or replace function notebook_rt.broadcast_capture() returns trigger
language plpgsql security definer set search_path = '' set timezone = 'UTC' set datestyle = 'ISO'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
    v_table notebook_rt.broadcast_tables;
    v_key text[];
    v_topic text := '$1::text';  -- of a row `r`
    v_parts text := '';
    v_row text := 'to_jsonb(r.*)';  -- `r` alone would be a column of that name
    v_json boolean;
    v_unclear text;
    v_object text;
    v_gone text;
    v_entries constant text :=
        'insert into notebook_rt.change_log (topic, op, %1$s, size)'
        ' select topic, $2::"char", jsonb_agg(j order by rn), sum(len) from ('
        '   select topic, j, rn, len, case when len > 50000 then rn end as alone,'
        '          sum(len) over (%3$s order by rn) / 100000'
        -- What comes behind such a row is no part of what comes before it: a row may stand there twice.
        '          + count(*) filter (where len > 50000) over (%3$s order by rn) as part'
        '   from (select topic, j, row_number() over () as rn, octet_length(j::text) + 2 as len'
        '         from (%2$s) a where topic is not null) b) c'
        ' group by topic, part, alone order by min(rn)';
begin
    select t.* into v_table from notebook_rt.broadcast_tables t where t.relation = tg_relid;
    if not found then
        return null;
    end if;
    v_key := notebook_rt.broadcast_key(tg_relid);
    if v_table.scope is not null then
        v_parts := 'partition by topic';
        select format('notebook_rt.broadcast_topic($1, r.%I::text)', s.name) into v_topic
          from notebook_rt.broadcast_scope(v_table) s;
    end if;
    if tg_op = 'TRUNCATE' or v_key is null or v_topic is null then
        insert into notebook_rt.change_log (topic, op, size)
        values (v_table.topic, case when tg_op = 'TRUNCATE' then 'T' else 'R' end, 20);
        return null;
    end if;
    v_unclear := notebook_rt.broadcast_unclear(tg_relid, tg_op);
    if v_unclear is not null then
        execute v_unclear into v_json;
        if v_json then
            insert into notebook_rt.change_log (topic, op, size) values (v_table.topic, 'R', 20);
            return null;
        end if;
    end if;
    if tg_op in ('INSERT', 'UPDATE') then
        -- The rows of a trigger have no virtual generated columns, and to compute one may be an error. And what
        -- `json` holds may be invalid as jsonb (\u0000, 1e999999), or be so in what is made of it.
        select v_row || coalesce(string_agg(format(' || jsonb_build_object(%L, %s)', a.attname,
                   pg_get_expr(d.adbin, d.adrelid)), '') filter (where a.attgenerated = 'v'), ''),
               bool_or('json'::regtype in (t.oid, t.typelem, t.typbasetype, e.typbasetype)
                       or 'c' in (t.typtype, e.typtype) or a.attgenerated = 'v'
                       or b.typtype in ('c', 'd') or b.typcategory = 'A')
          into v_row, v_json
          from pg_attribute a join pg_type t on t.oid = a.atttypid
          left join pg_type e on e.oid = t.typelem
          -- Of a domain what it is of, such as another one: further down nobody looks.
          left join pg_type b on b.oid in (nullif(t.typbasetype, 0), nullif(e.typbasetype, 0))
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped;
        v_row := format('select %s as topic, %s as j from new_rows r', v_topic, v_row)
            || coalesce(case when tg_op = 'UPDATE' then notebook_rt.broadcast_present(tg_relid) end, '');
        if v_json then  -- only here: to catch an error costs a transaction id
            begin
                execute format(v_entries, 'rows', v_row, v_parts) using v_table.topic, left(tg_op, 1);
            exception when data_exception or program_limit_exceeded then
                insert into notebook_rt.change_log (topic, op, size) values (v_table.topic, 'R', 20);
            end;
        else
            execute format(v_entries, 'rows', v_row, v_parts) using v_table.topic, left(tg_op, 1);
        end if;
        if tg_op = 'INSERT' then
            return null;
        end if;
    end if;
    select 'jsonb_build_object(' || string_agg(format('%1$L, r.%1$I', k), ', ') || ')'
      into v_object from unnest(v_key) k;
    v_gone := format('select %s as topic, %s as j from old_rows r', v_topic, v_object);
    if tg_op = 'UPDATE' then
        -- As JSON: a key that is equal and not the same (citext) is another key to a client.
        v_gone := v_gone || format(' except select %s, %s from new_rows r', v_topic, v_object);
    end if;
    -- A key that one statement frees and takes again is not gone for it: the triggers of a MERGE run in the
    -- order delete, update, insert, those of an upsert in the order update, insert.
    execute format(v_entries, 'gone', v_gone, v_parts) using v_table.topic, 'D';
    return null;
end $$;

-- The next number of a topic of a table with a scope, and its series: a counter, as there may be too many for
-- sequences. It is locked from here, at commit, to the end of that. Where a writer would fail or wait long for
-- it, the message has the number 0, and is counted by a row of its own: readers see that at the next head.
create or replace function notebook_rt.broadcast_number(
    p_topic text, p_table text, p_last bigint, out n bigint, out series bigint
) language plpgsql set search_path = '' set lock_timeout = '100ms' as $$
#variable_conflict use_column
begin
    if current_setting('transaction_isolation') = 'read committed' then
        begin
            insert into notebook_rt.broadcast_numbers (topic, counter, n, first, last)
                values (p_topic, true, 1, p_last, p_last)
                on conflict (topic) where counter
                    do update set n = broadcast_numbers.n + 1, last = p_last;
            with added as (
                delete from notebook_rt.broadcast_numbers
                 where topic = p_topic and not counter returning n
            )
            update notebook_rt.broadcast_numbers b set n = b.n + a.n
              from (select sum(n) as n from added) a
             where b.topic = p_topic and b.counter and a.n is not null;
            select sum(b.n), max(b.first) into broadcast_number.n, broadcast_number.series
              from notebook_rt.broadcast_numbers b where b.topic in (p_topic, p_table);
            return;
        exception when lock_not_available or deadlock_detected then
            null;
        end;
    end if;
    insert into notebook_rt.broadcast_numbers (topic, n) values (p_topic, 1);
    broadcast_number.n := 0;
end $$;

-- A message that cannot be sent is a warning, as in realtime.send: readers see the hole in the numbers.
-- `p_common`: what all messages of the transaction say; `p_entry`: the topic's latest entry of the log.
create or replace function notebook_rt.broadcast_message(
    p_table notebook_rt.broadcast_tables, p_topic text, p_part int, p_changes jsonb[], p_last boolean,
    p_common jsonb, p_entry bigint
) returns void language plpgsql set search_path = '' as $$
declare
    v_number bigint;
    v_series bigint;
begin
    if p_table.scope is null then
        v_number := nextval(p_table.numbers);
    else
        select b.n, b.series into v_number, v_series
          from notebook_rt.broadcast_number(p_topic, p_table.topic, p_entry) b;
    end if;
    if notebook_rt.broadcast_closed(p_table.told, p_table.relation) then
        return;  -- once it is open again, the number shows that something is missing
    end if;
    perform realtime.send(
        p_common || jsonb_build_object('epoch', p_table.epoch, 'n', v_number, 'series', v_series,
                                       'part', p_part, 'last', p_last, 'changes', to_jsonb(p_changes)),
        'changes', p_topic, true);
exception when others then
    raise warning 'notebook_rt: message % of topic "%" was not sent: %', v_number, p_topic, sqlerrm;
end $$;

-- The counters of `p_topics` of which the log has nothing any more, as it was pruned up to `p_last`. Where
-- one goes too early nothing is lost: to a reader a new series is a reason to ask the log.
create or replace function notebook_rt.broadcast_prune_numbers(p_topics text[], p_last bigint)
returns void language plpgsql set search_path = '' as $$
declare
    v_quiet text[];
begin
    -- Whoever counts up, or adds other rows to a counter, holds it: these nobody does.
    select array_agg(q.topic) into v_quiet from (
        select b.topic from notebook_rt.broadcast_numbers b
         where b.topic = any (p_topics) and b.counter and b.last <= p_last for update skip locked) q;
    delete from notebook_rt.broadcast_numbers b where b.topic = any (v_quiet);
    -- Each TRUNCATE of a table with a scope has left a row.
    with added as (
        delete from notebook_rt.broadcast_numbers b using notebook_rt.broadcast_tables t
         where b.topic = t.topic and t.topic = any (p_topics) returning b.topic, b.n
    )
    insert into notebook_rt.broadcast_numbers (topic, n)
        select a.topic, sum(a.n) from added a group by a.topic;
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
    v_topics text[];
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
        returning l.id, l.xid, l.topic
    )
    select count(*), max(g.xid::text::numeric)::text::xid8, array_agg(distinct g.topic), max(g.id)
      into v_deleted, v_xid, v_topics, v_last from gone g;
    if v_deleted > 0 then
        update notebook_rt.broadcast_state set pruned = greatest(pruned, v_xid);
        perform notebook_rt.broadcast_prune_numbers(v_topics, v_last);
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
    v_common jsonb;
    v_open text[];
    v_topics text[];
    v_told record;
    v_table notebook_rt.broadcast_tables;
    v_topic text;
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
    select coalesce(array_agg(distinct l.topic), '{}') into v_open
      from notebook_rt.change_log l join notebook_rt.broadcast_tables t on t.topic = l.topic
     where l.xid = v_xid and l.id > v_sent and t.scope is null;
    for v_told in
        select t as source, l.topic, l.last,
               array_agg(l.topic) over (
                   partition by s.name || substr(l.topic, length(t.topic) + 1)) as alike
          from notebook_rt.broadcast_tables t
          join (select l.topic, max(l.id) as last from notebook_rt.change_log l
                 where l.xid = v_xid and l.id > v_sent group by l.topic) l
            on l.topic = t.topic or t.scope is not null and starts_with(l.topic, t.topic || '=')
          left join lateral notebook_rt.broadcast_scope(t) s on true
         -- Those of values first: they name the others, which then find somebody that waits for them. All
         -- writers take the counters in one order.
         order by t.scope is null, l.topic collate "C"
    loop
        if v_table.relation is distinct from (v_told.source).relation then
            v_table := v_told.source;
            v_table.epoch := notebook_rt.broadcast_epoch(v_table.epoch, v_table.relation);
        end if;
        v_topic := v_told.topic;
        v_last := greatest(v_last, v_told.last);
        if v_table.scope is not null and v_topic = v_table.topic then
            -- To all values: nobody knows who listens. Readers see it by the number, and it is in the log.
            insert into notebook_rt.broadcast_numbers (topic, n) values (v_topic, 1);
            continue;
        end if;
        -- Readers of one topic may not know the others' names, nor whether another's rows changed, too: of
        -- topics of values only those of the same value, of a column of the same name, name each other.
        v_topics := case when v_table.scope is null then v_open else v_open || v_told.alike end;
        v_common := jsonb_build_object('x', v_xid::text, 'at', extract(epoch from v_at));
        if cardinality(v_topics) between 2 and 50 then
            v_common := v_common || jsonb_build_object('topics', (
                select jsonb_agg(left(md5(topic), 8)) from unnest(v_topics) topic));
        end if;
        v_changes := '{}';
        v_bytes := 0;
        v_part := 0;
        for v_entry in
            select l.id, l.op, l.rows, l.gone, l.size, l.at from notebook_rt.change_log l
             where l.xid = v_xid and l.topic in (v_topic, v_table.topic) and l.id > v_sent order by l.id
        loop
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
                perform notebook_rt.broadcast_message(
                    v_table, v_topic, v_part, v_changes, false, v_common, v_told.last);
                v_changes := '{}';
                v_bytes := 0;
            end if;
            v_changes := v_changes || v_change;
            v_bytes := v_bytes + v_add;
        end loop;
        perform notebook_rt.broadcast_message(
            v_table, v_topic, v_part + 1, v_changes, true, v_common, v_told.last);
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
create or replace function notebook_rt.broadcast_refused(
    p_relation regclass, p_policy text, p_scope text
) returns text language plpgsql stable set search_path = '' as $$
declare
    v_class pg_catalog.pg_class;
    v_column pg_catalog.pg_attribute;
    v_name text;
    v_each_row boolean;
begin
    select * into v_class from pg_catalog.pg_class where oid = p_relation;
    if v_class.relkind not in ('r', 'p') or v_class.relpersistence = 't' then
        return 'it is not a permanent table';
    end if;
    if notebook_rt.broadcast_key(p_relation) is null then
        return 'it has no primary key; add one';
    end if;
    select k.conname into v_name from pg_catalog.pg_constraint k
     where k.conrelid = p_relation and k.contype = 'p' and k.condeferred;
    if found then
        return format('its primary key %1$I is initially deferred, so that several rows may have one key until '
            'the commit; alter table %2$s alter constraint %1$I deferrable initially immediate',
            v_name, p_relation);
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
    -- Such a trigger's own write is logged before the statement that fired it: the older row last. Triggers
    -- for each statement fire by name. A write in a function that the trigger calls is not found here.
    select g.tgname, g.tgtype & 1 = 1 into v_name, v_each_row
      from pg_catalog.pg_trigger g
      join pg_catalog.pg_proc p on p.oid = g.tgfoid
      join pg_catalog.pg_language l on l.oid = p.prolang
     where g.tgrelid = p_relation and not g.tgisinternal
       and g.tgtype & 66 = 0  -- neither before nor instead of
       and (g.tgtype & 1 = 1 or g.tgname < 'notebook_rt_')
       and (l.lanname not in ('plpgsql', 'sql') or p.prosrc ~* '\mexecute\M' or p.prosrc ~* (
            '\m(insert\s+into|merge\s+into|update|delete\s+from|truncate)\s+((table|only)\s+)*'
            '(("[^"]*"|[\w$]+)\s*\.\s*)?"?'
            || regexp_replace(replace(v_class.relname, '"', '""'), '(\W)', '\\\1', 'g') || '"?(\W|$)'))
     limit 1;
    if found and v_each_row then
        return format('its AFTER ROW trigger %I writes, or may write, to the table itself; do that in '
            'a BEFORE ROW trigger', v_name);
    elsif found then
        return format('its AFTER STATEMENT trigger %1$I writes, or may write, to the table itself, before '
            'the statement is logged; give it a name that comes behind "notebook_rt_": alter trigger %1$I '
            'on %2$s rename to %3$I', v_name, p_relation, 'z_' || v_name);
    end if;
    if p_scope is null then
        return case when v_class.relrowsecurity and p_policy is null then
            'it has row-level security, which does not apply to broadcasts; say who may read the '
            'changes of all rows: source_policy => ''auth.uid() is not null'', or, where a row belongs '
            'to a user, which column says whose it is: scope => ''user_id''' end;
    end if;
    select a.* into v_column from pg_catalog.pg_attribute a
     where a.attrelid = p_relation and a.attname = p_scope and a.attnum > 0 and not a.attisdropped;
    if not found then
        return format('it has no column %I, which is to be its scope', p_scope);
    elsif v_column.atttypid not in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype,
                                    'int2'::regtype, 'int4'::regtype, 'int8'::regtype)
        or exists (select from pg_catalog.pg_collation c
                    where c.oid = v_column.attcollation and not c.collisdeterministic) then
        -- Of other types two values may be equal and not be written alike.
        return format('its scope %I is neither a uuid, an integer nor a text', p_scope);
    elsif p_policy is null and v_column.atttypid in
        ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) then
        return format('its scope %1$I is an integer, which no auth.uid() is; say who may read the rows '
            'of which %1$I: source_policy => ''%1$I in (select … where user_id = auth.uid())''', p_scope);
    end if;
    return null;
end $$;

-- Takes back all but the triggers: of a table that was dropped, these are gone.
create or replace function notebook_rt.broadcast_forget(p_relation oid) returns void
language plpgsql set search_path = '' as $$
declare
    v_table notebook_rt.broadcast_tables;
    v_policy constant text := 'notebook_rt_broadcast_' || p_relation;
begin
    execute format('drop policy if exists %I on realtime.messages', v_policy);
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send');
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_only');
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send_only');
    execute format('drop policy if exists %I on notebook_rt.change_log', v_policy);
    execute format('drop policy if exists %I on notebook_rt.broadcast_tables', v_policy);
    execute format('drop policy if exists %I on notebook_rt.broadcast_numbers', v_policy);
    execute format('drop function if exists notebook_rt.%I', 'broadcast_reads_' || p_relation);
    delete from notebook_rt.broadcast_tables where relation = p_relation returning * into v_table;
    if found then
        delete from notebook_rt.change_log where topic = v_table.topic
            or v_table.scope is not null and starts_with(topic, v_table.topic || '=');
        delete from notebook_rt.broadcast_numbers where topic = v_table.topic
            or v_table.scope is not null and starts_with(topic, v_table.topic || '=');
        if v_table.numbers is not null then
            execute format('drop sequence if exists %s', v_table.numbers);
        end if;
    end if;
end $$;

-- Of null, only what tables that were dropped have left.
create or replace function notebook_rt.broadcast_remove(p_relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
    v_trigger text;
begin
    perform notebook_rt.broadcast_lock(array[p_relation]);
    perform notebook_rt.broadcast_forget(t.relation) from notebook_rt.broadcast_tables t
      where not exists (select from pg_catalog.pg_class c where c.oid = t.relation);
    if p_relation is null then
        return;
    end if;
    foreach v_trigger in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('drop trigger if exists %I on %s', 'notebook_rt_' || v_trigger, p_relation);
    end loop;
    perform notebook_rt.broadcast_forget(p_relation);
end $$;

-- Makes a table's changes broadcast; again: with the policy and the scope that are said now. Returns the
-- topic. With a scope, each value of that column has a topic, and the policy is a condition on the column,
-- as in a row policy; without a policy the value is the reader's auth.uid().
create or replace function notebook_rt.broadcast_add(
    p_relation regclass, source_policy text default null, scope text default null
) returns text language plpgsql set search_path = '' as $$
declare
    v_refused constant text := notebook_rt.broadcast_refused(p_relation, source_policy, scope);
    v_policy constant text := 'notebook_rt_broadcast_' || p_relation::oid;
    v_numbers text := 'notebook_rt.broadcast_numbers_' || p_relation::oid;
    v_column int2;
    v_type regtype;
    v_topic text;
    v_may text := format('pg_catalog.has_table_privilege(%s::oid, ''select'')', p_relation::oid);
    v_told constant boolean := scope is not null or source_policy is not null;
    v_reads text;
    v_of_table text;
    v_sender text;
    v_owner text;
    v_event record;
begin
    perform notebook_rt.broadcast_lock(array[p_relation]);
    if v_refused is not null then
        raise exception 'the changes of table % cannot be broadcast: %', p_relation, v_refused;
    end if;
    select a.attnum, a.atttypid::regtype into v_column, v_type
      from pg_catalog.pg_attribute a where a.attrelid = p_relation and a.attname = scope;
    select format('nrt:%I.%I', n.nspname, c.relname) || case when scope is null then ''
                else format(':%I', scope) end into v_topic
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.oid = p_relation;
    perform notebook_rt.broadcast_forget(t.relation)
       from notebook_rt.broadcast_tables t
      where t.relation = p_relation and t.scope is distinct from v_column
         or not exists (select from pg_catalog.pg_class c where c.oid = t.relation);
    -- A table that was renamed keeps its topic; one that has its name now has another.
    select coalesce(
        (select t.topic from notebook_rt.broadcast_tables t where t.relation = p_relation),
        (select v_topic || '#' || p_relation::oid from notebook_rt.broadcast_tables t
          where t.topic = v_topic), v_topic) into v_topic;
    if scope is null then
        execute format('create sequence if not exists %s', v_numbers);
        execute format('revoke all on sequence %s from anon, authenticated, service_role', v_numbers);
        execute format('grant select on sequence %s to anon, authenticated, service_role', v_numbers);
        v_reads := format('topic = %L', v_topic);
        v_of_table := v_reads;
        if source_policy is not null then
            v_reads := format('%s and (%s)', v_reads, source_policy);
        end if;
    else
        v_numbers := null;
        v_of_table := format('topic = %1$L or pg_catalog.starts_with(topic, %1$L || ''='')', v_topic);
        if source_policy is null then
            v_reads := format('topic = notebook_rt.broadcast_topic(%L, (select auth.uid())::text)', v_topic);
        else
            v_reads := format(
                'exists (select from (select notebook_rt.broadcast_value(topic, %1$L, %2$s::regtype)::%3$s '
                'as %4$I) %5$I where %4$I is not null and (%6$s))', v_topic, v_type::oid, v_type, scope,
                (select c.relname from pg_catalog.pg_class c where c.oid = p_relation), source_policy);
        end if;
    end if;
    insert into notebook_rt.broadcast_tables (topic, relation, numbers, scope, told)
        values (v_topic, p_relation, v_numbers::regclass, v_column, v_told)
        on conflict (topic) do update set told = excluded.told;
    if not v_told then  -- and row-level security may be turned on later
        v_may := format('%s and not notebook_rt.broadcast_closed(false, %s::oid)', v_may, p_relation::oid);
    end if;
    -- The channel and the log say the same. The row's own topic is tested, too: realtime.topic() alone
    -- would show the rows of all topics once it names this one.
    execute format('drop policy if exists %I on realtime.messages', v_policy);
    execute format('create policy %I on realtime.messages for select to anon, authenticated using '
        '(extension = ''broadcast'' and realtime.topic() = topic and %s and %s)', v_policy, v_reads, v_may);
    -- Whoever owns the functions sends; policies may hold for that role, too.
    select p.proowner::regrole::text, r.rolname into v_sender, v_owner
      from pg_catalog.pg_proc p join pg_catalog.pg_roles r on r.oid = p.proowner
     where p.oid = 'notebook_rt.broadcast_flush'::regproc;
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send');
    execute format('create policy %I on realtime.messages for insert to %s with check '
        '(extension = ''broadcast'' and private and (%s))', v_policy || '_send', v_sender, v_of_table);
    -- A policy for all topics, as projects have for channels of their own, opens none of these.
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_only');
    execute format('create policy %I on realtime.messages as restrictive for select to anon, authenticated '
        'using ((%s) is not true or (extension = ''broadcast'' and realtime.topic() = topic and %s and %s))',
        v_policy || '_only', v_of_table, v_reads, v_may);
    execute format('drop policy if exists %I on realtime.messages', v_policy || '_send_only');
    execute format('create policy %I on realtime.messages as restrictive for insert to anon, authenticated '
        'with check ((%s) is not true or current_user = %L)', v_policy || '_send_only', v_of_table,
        v_owner);
    for v_event in
        select * from (values
            ('change_log', case when scope is null then v_reads
                                else format('(topic = %L or %s)', v_topic, v_reads) end),
            ('broadcast_numbers', format('(topic = %L or %s)', v_topic, v_reads)),
            ('broadcast_tables', case when scope is null then v_reads
                                      else format('topic = %L', v_topic) end)) e (name, reads)
    loop
        execute format('drop policy if exists %I on notebook_rt.%I', v_policy, v_event.name);
        execute format('create policy %I on notebook_rt.%I for select to anon, authenticated '
            'using (%s and %s)', v_policy, v_event.name, v_event.reads, v_may);
    end loop;
    if scope is not null then
        execute format('create or replace function notebook_rt.%I(topic text) returns boolean language sql '
            'stable return %s and %s', 'broadcast_reads_' || p_relation::oid, v_reads, v_may);
        execute format('grant execute on function notebook_rt.%I to anon, authenticated, service_role',
            'broadcast_reads_' || p_relation::oid);
    end if;
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

revoke all on function notebook_rt.broadcast_lock, notebook_rt.broadcast_same, notebook_rt.broadcast_present,
    notebook_rt.broadcast_unclear, notebook_rt.broadcast_capture,
    notebook_rt.broadcast_number, notebook_rt.broadcast_message, notebook_rt.broadcast_prune,
    notebook_rt.broadcast_prune_numbers, notebook_rt.broadcast_flush, notebook_rt.broadcast_refused,
    notebook_rt.broadcast_forget, notebook_rt.broadcast_remove, notebook_rt.broadcast_add
    from public, anon, authenticated, service_role;

-- The topic of the table that a topic is of, which is itself where there is no scope; null: this login may
-- not read it. It says what the policies say.
create or replace function notebook_rt.broadcast_source(p_topic text) returns text
language plpgsql stable security invoker set search_path = '' as $$
declare
    v_table notebook_rt.broadcast_tables;
    v_reads boolean := true;
begin
    select t.* into v_table from notebook_rt.broadcast_tables t
     where case when t.scope is null then t.topic = p_topic
                else starts_with(p_topic, t.topic || '=') end;
    if v_table.scope is not null and row_security_active('notebook_rt.change_log') then
        execute format('select notebook_rt.%I($1)', 'broadcast_reads_' || v_table.relation)
            into v_reads using p_topic;
    end if;
    return case when v_reads and not notebook_rt.broadcast_closed(v_table.told, v_table.relation)
        then v_table.topic end;
end $$;

-- A table's topic, a position (a snapshot), and the highest number drawn; null: nothing that this login
-- may read. The snapshot is older than the reading of the number, so that whatever the position sees has
-- a number of at most `n`. "key": the columns that the log tells rows by. `p_equal` says to what columns are
-- equal in the rows that are followed: where the scope is not among them there is no topic, and "scope" names it.
create or replace function public.notebook_rt_head(
    p_schema text, p_table text, p_equal jsonb default null
) returns jsonb language plpgsql volatile security invoker set search_path = '' as $$
declare
    v_table notebook_rt.broadcast_tables;
    v_scope record;
    v_value text;
    v_topic text;
    v_key text[];
    v_version constant int := (select version from notebook_rt.broadcast_state);
begin
    select t.* into v_table from notebook_rt.broadcast_tables t
     where t.relation = (
        select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n
            on n.oid = c.relnamespace where n.nspname = p_schema and c.relname = p_table);
    if not found or notebook_rt.broadcast_closed(v_table.told, v_table.relation) then
        return null;
    end if;
    v_key := coalesce(notebook_rt.broadcast_key(v_table.relation), '{}');
    if v_table.scope is null then
        return (select jsonb_build_object(
            'version', v_version, 'topic', v_table.topic,
            'epoch', notebook_rt.broadcast_epoch(v_table.epoch, v_table.relation), 'key', v_key,
            'position', pg_current_snapshot()::text,
            'n', coalesce(pg_catalog.pg_sequence_last_value(v_table.numbers), 0), 'series', 0));
    end if;
    select * into v_scope from notebook_rt.broadcast_scope(v_table);
    if not found then
        return null;
    elsif not coalesce(p_equal ? v_scope.name, false) then
        return jsonb_build_object('version', v_version, 'scope', v_scope.name);
    end if;
    begin  -- as the type writes it: {A0EE…} and a0ee… are one uuid
        execute format('select $1::%s::text', v_scope.type) into v_value using p_equal ->> v_scope.name;
    exception when data_exception then
        return null;
    end;
    v_topic := notebook_rt.broadcast_topic(v_table.topic, v_value);
    if notebook_rt.broadcast_source(v_topic) is null then
        return null;
    end if;
    return (select jsonb_build_object(
        'version', v_version, 'topic', v_topic, 'scope', v_scope.name,
        'epoch', notebook_rt.broadcast_epoch(v_table.epoch, v_table.relation), 'key', v_key,
        'position', pg_current_snapshot()::text, 'n', coalesce(sum(b.n), 0),
        'series', coalesce(max(b.first), 0))
        from notebook_rt.broadcast_numbers b where b.topic in (v_topic, v_table.topic));
end $$;

-- The heads of several tables in one question. In: an array of what is known of each, "schema", "table" and
-- "equal", as `notebook_rt_head` is asked, and the "topic", "epoch", "series" and "n" of now. Out: "heads", by
-- the place in the array, the answer where it is another one; and a "position" for all of them.
create or replace function public.notebook_rt_heads(p_tables jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
    v_position constant text := pg_current_snapshot()::text;  -- older than the reading of all numbers
    v_heads jsonb := '{}';
    v_head jsonb;
    v_asked record;
begin
    for v_asked in
        select a.value, (a.ordinality - 1)::text as place
          from jsonb_array_elements(p_tables) with ordinality a
    loop
        begin
            v_head := public.notebook_rt_head(
                v_asked.value ->> 'schema', v_asked.value ->> 'table', v_asked.value -> 'equal');
        exception when others then
            v_head := null;  -- one that cannot be asked, such as for its policy, spoils no other
        end;
        if not coalesce(v_head ? 'topic', false)
            or not v_asked.value @> (v_head - '{version,position,scope,key}'::text[]) then
            v_heads := v_heads || jsonb_build_object(v_asked.place, v_head);
        end if;
    end loop;
    return (select jsonb_build_object('version', s.version, 'position', v_position, 'heads', v_heads)
              from notebook_rt.broadcast_state s);
end $$;

-- What was committed between `p_position` and `p_until` (now, for the first page), in the order of the log,
-- after the entry `p_after`, a page of about `p_bytes`. The last page has "more": false; then "until" is
-- the new position. "too_old": entries that are needed were pruned. "behind": bytes, on the first page.
-- Null: this login may not read the topic.
create or replace function public.notebook_rt_since(
    p_topic text, p_position text, p_until text default null, p_after bigint default 0,
    p_bytes int default 1000000
) returns jsonb language sql stable security invoker set search_path = '' as $$
    with bounds as materialized (
        select p_position::pg_snapshot as since,
               coalesce(p_until::pg_snapshot, pg_current_snapshot()) as until,
               notebook_rt.broadcast_source(p_topic) as source
    ), missed as (
        select l.id, l.xid, l.op, l.rows, l.gone, l.size, l.at,
               sum(l.size) over (order by l.id) - l.size as before
          from notebook_rt.change_log l, bounds b
         where l.topic in (p_topic, b.source) and l.id > p_after and l.xid >= pg_snapshot_xmin(b.since)
           and not pg_visible_in_snapshot(l.xid, b.since) and pg_visible_in_snapshot(l.xid, b.until)
    )
    select jsonb_build_object(
        'until', b.until::text, 'epoch', notebook_rt.broadcast_epoch(t.epoch, t.relation),
        'too_old', (select s.pruned >= pg_snapshot_xmin(b.since) from notebook_rt.broadcast_state s)
            or pg_snapshot_xmax(b.since) > pg_snapshot_xmax(b.until),  -- of before a backup was restored
        'behind', case when p_until is null then (select coalesce(sum(m.size), 0) from missed m) end,
        'more', exists (select from missed m where m.before >= greatest(p_bytes, 1)),
        'changes', coalesce((
            select jsonb_agg(jsonb_build_object('id', m.id, 'x', m.xid::text, 'op', m.op,
                'at', extract(epoch from m.at)) || case
                when m.rows is not null then jsonb_build_object('rows', m.rows)
                when m.gone is not null then jsonb_build_object('gone', m.gone)
                else '{}' end order by m.id)
              from missed m where m.before < greatest(p_bytes, 1)), '[]'))
      from bounds b join notebook_rt.broadcast_tables t on t.topic = b.source
$$;
revoke all on function notebook_rt.broadcast_key, notebook_rt.broadcast_epoch, notebook_rt.broadcast_closed,
    notebook_rt.broadcast_topic, notebook_rt.broadcast_value, notebook_rt.broadcast_scope,
    notebook_rt.broadcast_source, public.notebook_rt_head, public.notebook_rt_heads,
    public.notebook_rt_since from public;
grant execute on function notebook_rt.broadcast_key, notebook_rt.broadcast_epoch, notebook_rt.broadcast_closed,
    notebook_rt.broadcast_topic, notebook_rt.broadcast_value, notebook_rt.broadcast_scope,
    notebook_rt.broadcast_source, public.notebook_rt_head, public.notebook_rt_heads,
    public.notebook_rt_since to anon, authenticated, service_role;

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
