-- Tables that describe themselves to notebook_rt (optional; `notebook-rt doctor --sql` prints this).
--
-- A hosted project shows the API's description, and with it the columns and the key of a table, to
-- secret keys only. This function tells a login of the tables that it has a grant on, and of no
-- other, as PostgREST's description does: columns, which of them it may read, types, NOT NULL, defaults, enum labels, keys,
-- publication, replica identity, row security and the login's own grants.
--
-- It only reads the catalog, with the caller's rights. Remove it with: drop function nrt_describe;

create or replace function public.nrt_describe(source_schema text, sources text[] default null)
returns jsonb
language sql stable security invoker set search_path = '' as $$
    select jsonb_build_object(
        -- What `notebook-rt doctor` says of the login: its limits, and which of these functions there are.
        'role', current_user,
        'statement_timeout', current_setting('statement_timeout'),
        'publication', exists (select from pg_publication where pubname = 'supabase_realtime'),
        'functions', (
            select coalesce(jsonb_agg(distinct p.proname), '[]') from pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname ~ '^(nrt|notebook_rt)_'
                and has_function_privilege(p.oid, 'execute')
        ),
        -- What they are made of: `doctor` sees which are of another version than it prints.
        'sources', (
            select coalesce(jsonb_agg(distinct md5(replace(p.prosrc, chr(13), ''))), '[]') from pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname ~ '^(nrt|notebook_rt)_'
                and has_function_privilege(p.oid, 'execute')
        ),
        'tables', coalesce(jsonb_object_agg(c.relname, jsonb_build_object(
        'kind', c.relkind,
        'columns', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', a.attname,
                -- As the description has it: a domain over a type of PostgreSQL's own is that type.
                'type', format_type(
                    case when b.typnamespace = 'pg_catalog'::regnamespace then b.oid
                         else a.atttypid end,
                    -- Of a numeric its digits, too: numeric(6,2).
                    case when a.atttypid = 'numeric'::regtype then a.atttypmod end),
                'not_null', a.attnotnull or base.not_null,
                'default', case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
                'identity', a.attidentity <> '',
                'generated', a.attgenerated <> '',
                'readable', has_column_privilege(c.oid, a.attnum, 'select'),
                'labels', (
                    select jsonb_agg(e.enumlabel order by e.enumsortorder)
                    from pg_enum e where e.enumtypid = b.oid)
            ) order by a.attnum), '[]')
            from pg_attribute a
            cross join lateral (
                with recursive below as (
                    select t.oid, t.typtype, t.typbasetype, t.typnotnull
                    from pg_type t where t.oid = a.atttypid
                    union all
                    select t.oid, t.typtype, t.typbasetype, t.typnotnull
                    from below join pg_type t on t.oid = below.typbasetype
                    where below.typtype = 'd'
                )
                select max(oid) filter (where typtype <> 'd') as oid,
                       bool_or(typtype = 'd' and typnotnull) as not_null
                from below
            ) base
            join pg_type b on b.oid = base.oid
            left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        ),
        'key', (
            select coalesce(jsonb_agg(a.attname order by k.place), '[]')
            from pg_index i
            cross join lateral unnest(i.indkey) with ordinality as k(number, place)
            join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
            where i.indrelid = c.oid and i.indisprimary
        ),
        'unique', (
            select coalesce(jsonb_agg((
                select jsonb_agg(a.attname order by k.place)
                from unnest(i.indkey) with ordinality as k(number, place)
                join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
                where k.place <= i.indnkeyatts
            ) order by i.indexrelid), '[]')
            from pg_index i
            where i.indrelid = c.oid and i.indisunique and not i.indisprimary and i.indisvalid
                and i.indpred is null and i.indexprs is null
        ),
        'published', exists (
            select from pg_publication_tables p
            where p.pubname = 'supabase_realtime' and p.schemaname = n.nspname
                and p.tablename = c.relname
        ),
        'replica_identity', c.relreplident,
        'row_security', c.relrowsecurity,
        -- For what a permissive policy lets this login see or change rows; * is everything.
        'policies', (
            select coalesce(jsonb_agg(distinct case p.polcmd when 'r' then 'select' when 'a' then 'insert'
                when 'w' then 'update' when 'd' then 'delete' else '*' end), '[]')
            from pg_policy p
            where p.polrelid = c.oid and p.polpermissive and exists (
                select from unnest(p.polroles) r
                where r = 0 or pg_has_role(current_user, r, 'member'))
        ),
        -- Sequences that give the table's columns their values, and that this login may not use.
        'closed_sequences', (
            select coalesce(jsonb_agg(distinct s.relname), '[]')
            from pg_attrdef d
            join pg_depend e on e.classid = 'pg_attrdef'::regclass and e.objid = d.oid
                and e.refclassid = 'pg_class'::regclass
            join pg_class s on s.oid = e.refobjid
            where d.adrelid = c.oid
                and case when s.relkind = 'S' then not has_sequence_privilege(s.oid, 'usage') end
        ),
        -- Whether a trigger sets columns before an update, as one of `updated_at` does.
        'set_by_trigger', exists (
            select from pg_trigger t
            where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
                and t.tgtype & 1 = 1 and t.tgtype & 2 = 2 and t.tgtype & 16 = 16
        ),
        'grants', (
            select coalesce(jsonb_agg(word), '[]')
            from unnest(array['select', 'insert', 'update', 'delete']) as word
            where case when word = 'delete' then has_table_privilege(c.oid, word)
                       else has_any_column_privilege(c.oid, word) end
        )
    )), '{}'))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = source_schema and (sources is null or c.relname = any (sources))
        and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and has_schema_privilege(n.oid, 'usage')
        and (has_any_column_privilege(c.oid, 'select, insert, update')
            or has_table_privilege(c.oid, 'delete'))
$$;

revoke all on function public.nrt_describe from public;
grant execute on function public.nrt_describe to anon, authenticated, service_role;
notify pgrst, 'reload schema';
