-- What the local Realtime server needs in the database, beside what Supabase has there.
-- Run as superuser at every start; every statement may be run again.

-- Whatever changes the schema, a grant or a publication says so in the stream of changes, in
-- order with them: what the server keeps of the catalog is forgotten at the right moment.
create or replace function realtime.notebook_rt_schema_changed() returns event_trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform pg_catalog.pg_logical_emit_message(true, 'notebook_rt', 'schema changed');
end $$;
drop event trigger if exists notebook_rt_schema_changed;
create event trigger notebook_rt_schema_changed on ddl_command_end
  execute function realtime.notebook_rt_schema_changed();

create or replace function realtime.notebook_rt_check_regex(pattern text, operator text)
returns void language plpgsql set search_path = '' as $$
begin
  perform '' operator(pg_catalog.~) pattern;
exception when others then
  raise exception 'invalid regular expression for % filter: %', operator, sqlerrm;
end $$;

-- Broadcasts of raw bytes from the database.
alter table realtime.messages add column if not exists binary_payload bytea;
create or replace function realtime.send_binary(
  payload bytea, event text, topic text, private boolean default true
) returns void language plpgsql as $$
begin
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (topic, extension, event, binary_payload, private)
  values (topic, 'broadcast', event, payload, private);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end $$;

grant execute on all functions in schema realtime to public;
-- Values are cast, and patterns checked, by the role that callers log in as.
grant usage on schema realtime, extensions to authenticator;
