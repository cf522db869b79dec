-- Fast audits for notebook_rt (optional): one request tells whether a whole table is still the same.
--
-- The functions only read, run with the caller's rights and row-level security, and are told apart
-- from the rest of the schema by their prefix. Remove them with:
-- drop function nrt_digest, nrt_rows, nrt_hash, nrt_predicate;

create or replace function public.nrt_predicate(conditions jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
    condition jsonb;
    part text;
    result text := 'true';
    operators constant jsonb := '{"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">",
        "gte": ">=", "like": "~~", "ilike": "~~*", "match": "~", "imatch": "~*",
        "isdistinct": "is distinct from"}';
begin
    for condition in select * from jsonb_array_elements(conditions) loop
        if condition ? 'any' then
            select format('(%s)', string_agg(public.nrt_predicate(alternative), ' or '))
              into part from jsonb_array_elements(condition -> 'any') alternative;
        elsif condition ->> 'operator' = 'is' then
            if condition -> 'values' ->> 0 not in ('null', 'true', 'false', 'unknown') then
                raise exception 'is takes null, true, false or unknown';
            end if;
            part := format('%I is %s', condition ->> 'column', condition -> 'values' ->> 0);
        elsif condition ->> 'operator' = 'in' then
            select format('%I in (%s)', condition ->> 'column',
                          coalesce(string_agg(format('%L', v), ', '), 'null'))
              into part from jsonb_array_elements_text(condition -> 'values') v;
        elsif operators ? (condition ->> 'operator') then
            part := format('%I %s %L', condition ->> 'column',
                           operators ->> (condition ->> 'operator'), condition -> 'values' ->> 0);
        else
            raise exception 'unknown operator %', condition ->> 'operator';
        end if;
        if (condition ->> 'negated')::boolean then
            part := format('not (%s)', part);
        end if;
        result := result || ' and ' || part;
    end loop;
    return result;
end $$;

-- How a key is hashed, by its type: the call up to its last argument, the seed.
create or replace function public.nrt_hash(source_schema text, source text, key text) returns text
language plpgsql stable security invoker set search_path = '' as $$
declare
    type text := (
        select format_type(atttypid, null) from pg_attribute
        where attrelid = format('%I.%I', source_schema, source)::regclass and attname = key
    );
begin
    return case
        when type in ('smallint', 'integer', 'bigint') then format('hashint8extended(%I::bigint', key)
        when type = 'uuid' then format('uuid_hash_extended(%I', key)
        when type in ('text', 'character varying') then format('hashtextextended(%I::text', key)
    end;
end $$;

-- For each bucket of keys: how many rows, and a hash over their keys and versions (xmin) that does
-- not depend on their order. Rows whose key is in `skip` are left out.
create or replace function public.nrt_digest(
    source_schema text, source text, key text, conditions jsonb, buckets int, skip text[]
) returns jsonb language plpgsql stable security invoker set search_path = '' as $$
declare
    result jsonb;
    -- An xid is no number, and its text takes a third of the time: it is counted back from the next
    -- one, which is the same throughout a transaction.
    next_xid constant bigint := age('3'::xid)::bigint + 3;
begin
    execute format($q$
        select jsonb_build_object('buckets', coalesce(jsonb_agg(b), '[]'),
                                  'rows', coalesce(jsonb_agg(n), '[]'),
                                  'digests', coalesce(jsonb_agg(h::text), '[]'))
        from (
            select (%1$s, 0) & ($1 - 1)) as b, count(*) as n,
                   bit_xor(%1$s, ($3 - age(xmin)) & 4294967295)) as h
            from %3$I.%4$I where %6$s and %5$s group by 1
        ) one
    $q$, public.nrt_hash(source_schema, source, key), key, source_schema, source,
         public.nrt_predicate(conditions),
         case when cardinality(skip) > 0 then format('%I::text <> all ($2)', key) else 'true' end)
    into result using buckets::bigint, skip, next_xid;
    return result;
end $$;

-- The keys and versions of the rows in some of these buckets.
create or replace function public.nrt_rows(
    source_schema text, source text, key text, conditions jsonb, buckets int, wanted bigint[]
) returns jsonb language plpgsql stable security invoker set search_path = '' as $$
declare
    result jsonb;
begin
    execute format($q$
        select jsonb_build_object('keys', coalesce(jsonb_agg(%2$I), '[]'),
                                  'versions', coalesce(jsonb_agg(xmin::text::bigint), '[]'))
        from %3$I.%4$I
        where (%1$s, 0) & ($1 - 1)) = any ($2) and %5$s
    $q$, public.nrt_hash(source_schema, source, key), key, source_schema, source,
         public.nrt_predicate(conditions))
    into result using buckets::bigint, wanted;
    return result;
end $$;

revoke all on function public.nrt_digest, public.nrt_rows, public.nrt_hash, public.nrt_predicate
    from public;
grant execute on function public.nrt_digest, public.nrt_rows, public.nrt_hash, public.nrt_predicate
    to anon, authenticated, service_role;

notify pgrst, 'reload schema';
