// The unmodified supabase-js client against the local stack: `node scenarios.mjs NAME`.
// SUPABASE_URL, SUPABASE_ANON_KEY and SUPABASE_SERVICE_KEY say where; a scenario that fails exits 1.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const { SUPABASE_URL: url, SUPABASE_ANON_KEY: anon, SUPABASE_SERVICE_KEY: service } = process.env;
const password = "correct horse";

// Node 20 has no WebSocket of its own.
const client = (key = anon) =>
  createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { transport: globalThis.WebSocket ?? WebSocket },
  });

const good = ({ data, error, count }) => {
  assert.equal(error, null, JSON.stringify(error));
  return count === undefined || count === null ? data : { data, count };
};

const within = (promise, what, ms = 10_000) =>
  Promise.race([
    promise,
    new Promise((_, fail) => setTimeout(() => fail(new Error(`waited for ${what}`)), ms).unref()),
  ]);

// A value to be waited for: `const [arrived, arrive] = promised()`.
const promised = () => {
  let settle;
  return [new Promise((resolve) => (settle = resolve)), (value) => settle(value)];
};

const until = async (ready, what) =>
  within(
    (async () => {
      while (!ready()) await new Promise((resolve) => setTimeout(resolve, 10));
    })(),
    what,
  );

const joined = (channel) => {
  const [done, settle] = promised();
  channel.subscribe((status, error) => {
    if (status === "SUBSCRIBED") settle(null);
    else if (status !== "CLOSED") settle(error ?? new Error(status));
  });
  return within(done, "SUBSCRIBED").then((error) => {
    if (error) throw error;
  });
};

const signedUp = async () => {
  const db = client();
  const email = `${randomUUID()}@example.org`;
  const { user } = good(await db.auth.signUp({ email, password }));
  return { db, email, user };
};

export const scenarios = {
  // For a live table to follow: what js_prices must hold at the end is in test_supabase_js.py.
  async writes() {
    const db = client();
    good(await db.from("js_prices").insert([{ id: 1, name: "a" }, { id: 2, name: "b" }, { id: 3, name: "c" }]));
    good(await db.from("js_prices").update({ name: "changed" }).eq("id", 1));
    good(await db.from("js_prices").upsert({ id: 2, name: "b too" }));
    good(await db.from("js_prices").delete().eq("id", 3));
  },

  async auth() {
    const { db, email, user } = await signedUp();
    assert.equal(good(await db.auth.getUser()).user.id, user.id);
    const before = good(await db.auth.getSession()).session;
    const after = good(await db.auth.refreshSession()).session;
    assert.notEqual(after.refresh_token, before.refresh_token);
    const stale = await client().auth.refreshSession({ refresh_token: before.refresh_token });
    assert.equal(stale.error.code, "refresh_token_already_used");
    const wrong = await client().auth.signInWithPassword({ email, password: "wrong" });
    assert.equal(wrong.error.code, "invalid_credentials");
    assert.equal(wrong.error.status, 400);
    const again = client();
    assert.equal(good(await again.auth.signInWithPassword({ email, password })).user.id, user.id);
    const changed = good(await again.auth.updateUser({ data: { nick: "zed" } }));
    assert.equal(changed.user.user_metadata.nick, "zed");
    assert.equal((await again.auth.signOut()).error, null);
    assert.equal(good(await client().auth.signInAnonymously()).user.is_anonymous, true);
    const { admin } = client(service).auth;
    assert.equal(good(await admin.getUserById(user.id)).user.email, email);
    assert.equal((await admin.deleteUser(user.id)).error, null);
  },

  async rest() {
    const { db } = await signedUp();
    const notes = () => db.from("js_notes");
    const rows = [
      { id: 1, title: "a, b", n: 1, tags: ["x"] },
      { id: 2, title: 'q"', n: 2, data: { k: [1, null] } },
    ];
    assert.equal(good(await notes().insert(rows).select("id")).length, 2);
    assert.deepEqual(good(await notes().select("title").in("title", ["a, b"])), [{ title: "a, b" }]);
    assert.deepEqual(good(await notes().select("n").contains("tags", ["x"])), [{ n: 1 }]);
    assert.deepEqual(good(await notes().select("k:data->k").eq("id", 2)), [{ k: [1, null] }]);
    assert.deepEqual(good(await notes().select("id").or("n.gt.1,title.like.z*")), [{ id: 2 }]);
    const page = good(await notes().select("*", { count: "exact" }).order("id").range(0, 0));
    assert.deepEqual([page.count, page.data.length], [2, 1]);
    const head = await notes().select("*", { count: "exact", head: true });
    assert.equal(head.count, 2);
    const merged = await notes().upsert({ id: 2, title: "new", n: 3 }).select().single();
    assert.equal(good(merged).title, "new");
    assert.equal(good(await notes().update({ n: 4 }).eq("id", 2).select())[0].n, 4);
    assert.equal(good(await notes().select("*").eq("id", 77).maybeSingle()), null);
    assert.equal(good(await db.rpc("js_add", { a: 2, b: 40 })), 42);
    assert.equal((await db.from("js_nothing").select()).error.code, "PGRST205");
    assert.equal((await notes().insert({ id: 1, title: "twice" })).error.code, "23505");
    const other = await signedUp();
    assert.deepEqual(good(await other.db.from("js_notes").select()), []);
    assert.equal((await notes().delete().gt("id", 0)).error, null);
    assert.deepEqual(good(await notes().select()), []);
  },

  async changes() {
    const { db, user } = await signedUp();
    const seen = [];
    const [confirmed, confirm] = promised();
    const channel = db
      .channel("js-changes")
      .on("system", {}, (message) => message.extension === "postgres_changes" && confirm(message))
      .on("postgres_changes", { event: "*", schema: "public", table: "js_notes" }, (change) => {
        // What was committed just before a join may come, too.
        if ((change.new.id ?? change.old.id) === 10) seen.push(change);
      });
    await joined(channel);
    assert.equal((await within(confirmed, "the system message")).status, "ok");
    const notes = db.from("js_notes");
    assert.equal((await notes.insert({ id: 10, title: "live", n: 1 })).error, null);
    await until(() => seen.length === 1, "the insert");
    assert.equal((await notes.update({ n: 2 }).eq("id", 10)).error, null);
    await until(() => seen.length === 2, "the update");
    assert.equal((await notes.delete().eq("id", 10)).error, null);
    await until(() => seen.length === 3, "the delete");
    const types = seen.map((change) => change.eventType);
    assert.deepEqual(types, ["INSERT", "UPDATE", "DELETE"]);
    assert.deepEqual([seen[0].new.title, seen[0].new.owner], ["live", user.id]);
    assert.equal(seen[1].new.n, 2);
    assert.deepEqual(seen[2].old, { id: 10 });
    await db.removeAllChannels();
  },

  async broadcast() {
    const [sender, receiver] = [client(), client()];
    const [heard, hear] = promised();
    const options = { config: { broadcast: { ack: true } } };
    const listening = receiver.channel("js-room", options);
    listening.on("broadcast", { event: "price" }, ({ payload }) => hear(payload));
    const sending = sender.channel("js-room", options);
    await Promise.all([joined(listening), joined(sending)]);
    const message = { type: "broadcast", event: "price", payload: { symbol: "é", price: 1.5 } };
    assert.equal(await sending.send(message), "ok");
    assert.deepEqual(await within(heard, "the broadcast"), message.payload);
    await Promise.all([sender.removeAllChannels(), receiver.removeAllChannels()]);
  },

  async presence() {
    const [one, two] = [client(), client()];
    const room = (db, key) => db.channel("js-presence", { config: { presence: { key } } });
    const [first, second] = [room(one, "ann"), room(two, "bob")];
    let left = null;
    first.on("presence", { event: "sync" }, () => {});
    first.on("presence", { event: "leave" }, ({ key }) => (left = key));
    second.on("presence", { event: "sync" }, () => {});
    await Promise.all([joined(first), joined(second)]);
    assert.equal(await first.track({ name: "Ann" }), "ok");
    assert.equal(await second.track({ name: "Bob" }), "ok");
    const names = (channel) =>
      Object.entries(channel.presenceState())
        .map(([key, [meta]]) => `${key}:${meta.name}`)
        .sort()
        .join();
    await until(() => names(first) === "ann:Ann,bob:Bob", "both at the first");
    await until(() => names(second) === "ann:Ann,bob:Bob", "both at the second");
    await two.removeAllChannels();
    await until(() => left === "bob" && names(first) === "ann:Ann", "the leave");
    await one.removeAllChannels();
  },
};

const scenario = scenarios[process.argv[2]];
assert.ok(scenario, `no scenario ${process.argv[2]}`);
await scenario();
process.exit(0);
