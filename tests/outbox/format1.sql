-- A queue's file of format 1, as the package of that time made it (sqlite3's dump).
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE conflicts (
        number integer primary key autoincrement,
        op text not null,
        schema text not null,
        target text not null,
        open integer not null,
        record text not null
    );
INSERT INTO "conflicts" VALUES(1,'asking-1','public','t',1,'{"at":61.0,"op":"asking-1","key":{"id":2},"column":"n","base":0,"mine":2,"theirs":3,"result":null,"rule":"ask","who":null,"open":true}');
CREATE TABLE done (id text primary key, seq integer not null, row text) without rowid;
INSERT INTO "done" VALUES('done-1',1,'{"id":9,"n":9}');
CREATE TABLE lease (
        one integer primary key check (one = 1),
        owner text not null,
        fence integer not null,
        until real not null
    );
INSERT INTO "lease" VALUES(1,'',1,0.0);
CREATE TABLE ops (
        seq integer primary key autoincrement,
        id text not null unique,
        kind text not null,
        schema text not null,
        target text not null,
        lane text not null,
        body text not null,
        made_at real not null,
        expires_at real,
        state text not null default 'waiting',
        blocked integer not null default 0,
        sent integer not null default 0,
        attempts integer not null default 0,
        not_before real not null default 0,
        error text not null default ''
    );
INSERT INTO "ops" VALUES(2,'failed-1','update','public','t','["public", "t", 1]','{"key":{"id":1},"values":{"n":-1},"base":{"n":0},"types":{"id":"int8","n":"int8"},"rules":{"":"lww"}}',60.0,NULL,'failed',0,0,1,0.0,'400: n is negative');
INSERT INTO "ops" VALUES(3,'parked-1','update','public','t','["public", "t", 1]','{"key":{"id":1},"values":{"n":2},"base":{"n":7},"types":{"id":"int8","n":"int8"},"rules":{"":"lww"}}',60.0,NULL,'waiting',1,0,0,0.0,'');
INSERT INTO "ops" VALUES(4,'asking-1','update','public','t','["public", "t", 2]','{"key":{"id":2},"values":{"n":2},"base":{"n":0},"types":{"id":"int8","n":"int8"},"rules":{"":"lww"}}',60.0,NULL,'asking',0,0,0,0.0,'ask');
INSERT INTO "ops" VALUES(5,'waiting-1','update','public','t','["public", "t", 3]','{"key":{"id":3},"values":{"n":3},"base":{"n":0},"types":{"id":"int8","n":"int8"},"rules":{"":"lww"}}',60.0,NULL,'waiting',0,0,0,0.0,'');
INSERT INTO "ops" VALUES(6,'sent-1','update','public','t','["public", "t", 4]','{"key":{"id":4},"values":{"n":4},"base":{"n":0},"types":{"id":"int8","n":"int8"},"rules":{"":"lww"}}',60.0,NULL,'waiting',0,1,0,0.0,'');
CREATE INDEX ops_lane on ops (lane, seq);
CREATE INDEX ops_ready on ops (state, blocked, seq);
CREATE INDEX ops_expiry on ops (expires_at) where expires_at is not null;
CREATE INDEX done_seq on done (seq);
CREATE INDEX conflicts_target on conflicts (schema, target, number);
CREATE INDEX conflicts_op on conflicts (op);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('ops',6);
INSERT INTO "sqlite_sequence" VALUES('conflicts',1);
COMMIT;
