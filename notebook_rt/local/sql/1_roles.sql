-- The roles of a Supabase project and what they may do by default. Every statement may run again.

do $$
declare
  wanted text;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      execute format('create role %I nologin noinherit', wanted);
    end if;
  end loop;
  alter role service_role bypassrls;
  -- The role that REST and Realtime connect as before they take a caller's. It owns nothing and may
  -- do nothing of its own; the server gives it a password at every start.
  if not exists (select from pg_roles where rolname = 'authenticator') then
    create role authenticator;
  end if;
  alter role authenticator login noinherit;
  grant anon, authenticated, service_role to authenticator;
end $$;

create schema if not exists auth;
create schema if not exists realtime;
create schema if not exists extensions;

grant usage on schema public, auth, realtime, extensions to anon, authenticated, service_role;
-- Since 2026 a hosted project grants nothing on what is made in `public`; before, everything.
do $$
declare
  everything boolean := current_setting('notebook_rt.default_grants')::boolean;
  verb text := case when everything then 'grant all on %s to' else 'revoke all on %s from' end;
  kind text;
begin
  foreach kind in array array['tables', 'sequences', 'routines'] loop
    execute format('alter default privileges in schema public ' || verb, kind)
      || ' anon, authenticated, service_role';
  end loop;
  -- To run a function is everybody's right unless it is taken away for all schemas.
  execute format('alter default privileges ' || replace(verb, 'all', 'execute'), 'routines')
    || ' public';
end $$;

-- An extension's functions are as its script leaves them: on a hosted project another role makes
-- them, and what is not for everybody (`dblink_connect_u`) its script takes away itself.
create or replace function extensions.notebook_rt_defaults() returns event_trigger
language plpgsql set search_path = '' as $$
begin
  if tg_event = 'ddl_command_start' then
    alter default privileges grant execute on routines to public;
  else
    alter default privileges revoke execute on routines from public;
  end if;
end $$;
drop event trigger if exists notebook_rt_extension_starts;
drop event trigger if exists notebook_rt_extension_ends;
do $$
begin
  if not current_setting('notebook_rt.default_grants')::boolean then
    create event trigger notebook_rt_extension_starts on ddl_command_start
      when tag in ('CREATE EXTENSION', 'ALTER EXTENSION')
      execute function extensions.notebook_rt_defaults();
    create event trigger notebook_rt_extension_ends on ddl_command_end
      when tag in ('CREATE EXTENSION', 'ALTER EXTENSION')
      execute function extensions.notebook_rt_defaults();
  end if;
end $$;

do $$
begin
  execute format('alter database %I set search_path = "$user", public, extensions', current_database());
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
end $$;
-- wal2json, which the real server reads with, has stored generated columns in its rows.
alter publication supabase_realtime set (publish_generated_columns = stored);
