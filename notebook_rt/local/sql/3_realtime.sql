-- Messages: broadcasts from the database, and the table whose policies guard private channels.

-- A table of an older version of this package was not partitioned: its rows and policies move.
do $$
declare
  policy text;
  policies text[];
begin
  if to_regclass('realtime.messages') is null then
    create table realtime.messages (
      topic text not null,
      extension text not null,
      payload jsonb,
      event text,
      private boolean default false,
      updated_at timestamp not null default now(),
      inserted_at timestamp not null default now(),
      id uuid not null default gen_random_uuid(),
      primary key (id, inserted_at)
    ) partition by range (inserted_at);
  elsif (select relkind from pg_class where oid = 'realtime.messages'::regclass) = 'r' then
    select array_agg(format('create policy %I on realtime.messages as %s for %s to %s', p.policyname,
             p.permissive, p.cmd, array_to_string(array(select quote_ident(r) from unnest(p.roles) r), ', '))
             || coalesce(' using (' || p.qual || ')', '')
             || coalesce(' with check (' || p.with_check || ')', ''))
      into policies
      from pg_policies p where p.schemaname = 'realtime' and p.tablename = 'messages';
    alter table realtime.messages rename to messages_before;
    create table realtime.messages (like realtime.messages_before including defaults)
      partition by range (inserted_at);
    alter table realtime.messages add primary key (id, inserted_at);
    foreach policy in array coalesce(policies, '{}') loop
      execute policy;
    end loop;
  end if;
end $$;

-- A partition a day: those of the last three days, which is as long as the real server keeps messages,
-- and of the next three. Without one a message cannot be sent, which is a warning. To make or drop one
-- locks the table, and who waits for that lock long holds up every sender.
create or replace function realtime.notebook_rt_partitions() returns void
language plpgsql set timezone = 'UTC' set lock_timeout = '500ms' set search_path = '' as $$
declare
  day date;
  partition text;
begin
  for day in select generate_series(current_date - 3, current_date + 3, '1 day') loop
    partition := to_char(day, '"messages_"YYYY_MM_DD');
    if to_regclass('realtime.' || partition) is null then
      execute format('create table realtime.%I partition of realtime.messages'
        ' for values from (%L) to (%L)', partition, day, day + 1);
    end if;
  end loop;
  for partition in
    select c.relname from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'realtime.messages'::regclass
       and c.relname < to_char(current_date - 3, '"messages_"YYYY_MM_DD')
  loop
    execute format('drop table realtime.%I', partition);
  end loop;
end $$;
select realtime.notebook_rt_partitions();

do $$
begin
  if to_regclass('realtime.messages_before') is not null then
    insert into realtime.messages
      select * from realtime.messages_before
       where inserted_at >= (now() at time zone 'UTC')::date - 3;
    drop table realtime.messages_before;
  end if;
end $$;
create index if not exists messages_by_topic on realtime.messages (topic, inserted_at);
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

do $$
begin
  if not exists (
    select from pg_publication where pubname = 'supabase_realtime_messages_publication'
  ) then
    create publication supabase_realtime_messages_publication;
  end if;
  alter publication supabase_realtime_messages_publication set table realtime.messages;
end $$;

create or replace function realtime.topic() returns text language sql stable as $$
  select nullif(current_setting('realtime.topic', true), '')
$$;

-- A message that cannot be sent is a warning: a trigger that tells the world about a row must not
-- make the row's own write fail.
create or replace function realtime.send(
  payload jsonb, event text, topic text, private boolean default true
) returns void language plpgsql as $$
declare
  message_id uuid := gen_random_uuid();
begin
  if not payload ? 'id' then
    payload := jsonb_set(payload, '{id}', to_jsonb(message_id));
  end if;
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  values (message_id, topic, 'broadcast', event, payload, private);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;

create or replace function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW'
) returns void language plpgsql as $$
begin
  if level = 'STATEMENT' then
    raise exception 'function can only be triggered for each row, not for each statement';
  end if;
  if operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Unexpected operation type: %', operation;
  end if;
  perform realtime.send(
    jsonb_build_object(
      'operation', operation, 'schema', table_schema, 'table', table_name,
      'record', new, 'old_record', old
    ),
    event_name, topic_name
  );
exception when others then
  raise exception 'Failed to process the row: %', sqlerrm;
end $$;
