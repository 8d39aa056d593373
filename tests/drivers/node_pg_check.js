// node-postgres, direct against proxied: simple, extended and named statements, transactions, errors, pools.
// Run with NODE_PATH pointing at the node_modules that holds `pg`.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Client, Pool } = require("pg");

const PREFIX = "drv_node";
const STATEMENTS = JSON.parse(fs.readFileSync(path.join(__dirname, "statements.json"), "utf8")).map((s) =>
  s.replaceAll("{prefix}", PREFIX),
);

function show(value) {
  return JSON.stringify(value, (_, v) => {
    if (typeof v === "bigint") return `${v}n`;
    if (typeof v === "number" && !Number.isFinite(v)) return String(v);
    return v;
  });
}

class Transcript {
  constructor(client) {
    this.lines = [];
    client.on("notice", (n) => this.add("notice", n.severity, n.code, n.message, n.hint));
  }

  add(...what) {
    this.lines.push(show(what));
  }

  async run(promise) {
    try {
      const results = [await promise].flat();
      for (const r of results) {
        this.add(r.command, r.rowCount, r.fields.map((f) => [f.name, f.dataTypeID, f.format]), r.rows);
      }
    } catch (e) {
      this.add("error", e.severity, e.code, e.message, e.detail, e.hint, e.position, e.constraint);
    }
  }
}

const CASES = {
  async allStatements(client, t) {
    for (const s of STATEMENTS) await t.run(client.query(s));
  },

  async allStatementsExtended(client, t) {
    for (const s of STATEMENTS) await t.run(client.query({ text: s, values: [], queryMode: "extended" }));
  },

  async allStatementsNamed(client, t) {
    for (const [i, s] of STATEMENTS.entries()) await t.run(client.query({ name: `s${i}`, text: s }));
    for (const [i, s] of STATEMENTS.entries()) await t.run(client.query({ name: `s${i}`, text: s }));
  },

  async rowsAsArrays(client, t) {
    await t.run(client.query({ text: "SELECT 1 AS a, 2 AS a", rowMode: "array" }));
    await t.run(client.query({ text: "SELECT 7::int4, 'x'::text", binary: true, values: [], queryMode: "extended" }));
  },

  async parameters(client, t) {
    const values = [true, 7, -1.5, "äöü 🐘", Buffer.from([0, 255]), null, [1, 2, null], new Date(0), { a: 1 }];
    const types = ["bool", "int4", "float8", "text", "bytea", "text", "int4[]", "timestamptz", "jsonb"];
    for (const [i, v] of values.entries()) {
      await t.run(client.query(`SELECT $1::${types[i]} AS v, pg_typeof($1::${types[i]})::text`, [v]));
    }
    await t.run(client.query("SELECT $1::int", ["no number"]));
    await t.run(client.query("SELECT $1", []));
  },

  async named(client, t) {
    for (let i = 0; i < 20; i += 1) {
      await t.run(client.query({ name: "twice", text: "SELECT $1::int * 2 AS v, $2::text", values: [i, `nonce ${i}`] }));
    }
    for (let i = 0; i < 150; i += 1) {
      await t.run(client.query({ name: `n${i}`, text: `SELECT ${i} + $1::int`, values: [i] }));
    }
  },

  async queuedWithoutWaiting(client, t) {
    const all = [];
    for (let i = 0; i < 50; i += 1) {
      all.push(t.run(client.query(i % 10 === 7 ? "SELECT 1/0" : `SELECT ${i} AS n`)));
    }
    await Promise.all(all);
  },

  async portalsWithRowLimits(client, t) {
    await client.query("BEGIN");
    await t.run(client.query({ text: "SELECT generate_series(1, 100) AS n", values: [], rows: 7 }));
    await client.query("COMMIT");
  },

  async severalStatements(client, t) {
    await t.run(client.query("SELECT 1 AS a; SELECT 2 AS b; SELECT 3 AS c WHERE false"));
    await t.run(client.query("SELECT 1; SELECT 1/0; SELECT 3"));
    await t.run(client.query(""));
  },

  async transactions(client, t) {
    const table = `${PREFIX}_t`;
    await t.run(client.query(`DROP TABLE IF EXISTS ${table}`));
    await t.run(client.query(`CREATE TABLE ${table} (n int UNIQUE)`));
    await client.query("BEGIN");
    await t.run(client.query(`INSERT INTO ${table} VALUES ($1), ($2)`, [1, 2]));
    await client.query("ROLLBACK");
    await t.run(client.query(`SELECT * FROM ${table}`));
    await client.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    await t.run(client.query(`INSERT INTO ${table} VALUES (3)`));
    await client.query("SAVEPOINT s");
    await t.run(client.query(`INSERT INTO ${table} VALUES (3)`));
    await t.run(client.query("SELECT 1"));
    await client.query("ROLLBACK TO SAVEPOINT s");
    await t.run(client.query("SHOW transaction_isolation"));
    await t.run(client.query("COMMIT"));
    await client.query("BEGIN");
    await t.run(client.query("SELECT 1/0"));
    await t.run(client.query("COMMIT"));
    await t.run(client.query(`SELECT * FROM ${table}`));
    await t.run(client.query(`DROP TABLE ${table}`));
  },

  async sessionParameters(client, t) {
    await t.run(client.query("SET timezone = 'Asia/Kolkata'"));
    await t.run(client.query("SELECT TIMESTAMPTZ '2024-01-01 00:00:00+00'::text AS v"));
    await t.run(client.query("RESET timezone"));
    await t.run(client.query("SELECT TIMESTAMPTZ '2024-01-01 00:00:00+00'::text AS v"));
  },
};

async function manyClients(connectionString) {
  const pool = new Pool({ connectionString, max: 20 });
  const lines = await Promise.all(
    Array.from({ length: 400 }, async (_, i) => show((await pool.query("SELECT $1::int AS n", [i])).rows)),
  );
  await pool.end();
  return ["manyClients", lines];
}

async function runAll(connectionString) {
  const results = [];
  for (const [name, run] of Object.entries(CASES)) {
    const client = new Client({ connectionString, application_name: "node_pg_check" });
    await client.connect();
    const t = new Transcript(client);
    await run(client, t);
    await client.end();
    results.push([name, t.lines]);
  }
  results.push(await manyClients(connectionString));
  return results;
}

async function main() {
  const [direct, proxied] = process.argv.slice(2);
  if (!direct || !proxied) throw new Error("usage: node_pg_check.js DIRECT_DSN PROXIED_DSN");
  const [wanted, seen] = [await runAll(direct), await runAll(proxied)];
  let different = 0;
  let results = 0;
  for (const [i, [name, lines]] of wanted.entries()) {
    const other = seen[i][1];
    results += lines.length;
    const count = Math.max(lines.length, other.length);
    const bad = Array.from({ length: count }, (_, n) => n).filter((n) => lines[n] !== other[n]);
    if (bad.length === 0) continue;
    different += 1;
    console.log(`--- ${name}`);
    for (const n of bad.slice(0, 10)) {
      console.log(`-${String(lines[n]).slice(0, 2000)}\n+${String(other[n]).slice(0, 2000)}`);
    }
  }
  const version = require("pg/package.json").version;
  if (different > 0) {
    console.log(`node-postgres ${version}: ${different} of ${wanted.length} cases differ`);
    process.exit(1);
  }
  console.log(`node-postgres ${version}: ${wanted.length} cases, ${results} results, identical`);
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
