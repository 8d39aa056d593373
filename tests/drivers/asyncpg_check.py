"""asyncpg, direct against proxied: its own prepared statements and cache, cursors, COPY, transactions, errors."""

import asyncio
import io

import asyncpg

import compare

PREFIX = "drv_asyncpg"


class Transcript:
    """What one case saw, as lines."""

    def __init__(self, conn):
        self.lines = []
        conn.add_log_listener(lambda _, m: self.add("notice", m.severity_en, m.sqlstate, m.message, m.hint))

    def add(self, *what):
        self.lines.append(repr(what))

    def error(self, e):
        names = ("severity_en", "sqlstate", "message", "detail", "hint", "position", "constraint_name")
        self.add("error", type(e).__name__, *(getattr(e, n, None) for n in names), str(e))

    async def run(self, awaitable):
        try:
            self.add(await awaitable)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            self.error(e)


async def all_statements(conn, t):
    for s in compare.statements(PREFIX):
        await t.run(conn.fetch(s))


async def all_statements_simple(conn, t):
    for s in compare.statements(PREFIX):
        await t.run(conn.execute(s))


async def prepared(conn, t):
    statement = await conn.prepare("SELECT $1::int * 2 AS twice, $2::text AS nonce")
    t.add(statement.get_parameters(), statement.get_attributes())
    for i in range(20):
        await t.run(statement.fetch(i, f"nonce {i}"))
    await t.run(statement.fetchrow(2**31 - 1, None))
    for i in range(150):
        await t.run(conn.fetchval(f"SELECT {i} + $1::int", i))
    await t.run(conn.prepare("SELECT * FROM no_such_table"))


async def parameters(conn, t):
    import datetime
    import decimal
    import uuid

    typed = [
        ("bool", True), ("int2", 7), ("int8", 2**40), ("float8", -1.5), ("numeric", decimal.Decimal("12.340")),
        ("text", "äöü 🐘"), ("bytea", b"\x00\xff"), ("int4[]", [1, None, 3]), ("text[]", [["a"], ["b"]]),
        ("date", datetime.date(2024, 2, 29)), ("timestamp", datetime.datetime(2024, 2, 29, 1, 2, 3)),
        ("interval", datetime.timedelta(days=3, seconds=7)), ("uuid", uuid.UUID(int=7)), ("json", '{"a": 1}'),
        ("int4range", asyncpg.Range(1, 10)), ("point", asyncpg.Point(1, 2)),
    ]
    for name, value in typed:
        await t.run(conn.fetchrow(f"SELECT $1::{name} AS v, pg_typeof($1)::text", value))
        await t.run(conn.fetchrow(f"SELECT $1::{name} AS v", None))


async def transactions(conn, t):
    await t.run(conn.execute(f"DROP TABLE IF EXISTS {PREFIX}_t; CREATE TABLE {PREFIX}_t (n int UNIQUE)"))
    transaction = conn.transaction()
    await transaction.start()
    await t.run(conn.execute(f"INSERT INTO {PREFIX}_t VALUES (1), (2)"))
    await transaction.rollback()
    await t.run(conn.fetch(f"SELECT * FROM {PREFIX}_t"))
    async with conn.transaction():
        await t.run(conn.execute(f"INSERT INTO {PREFIX}_t VALUES ($1)", 3))
        try:
            async with conn.transaction():
                await conn.execute(f"INSERT INTO {PREFIX}_t VALUES ($1)", 3)
        except asyncpg.PostgresError as e:
            t.error(e)
    await t.run(conn.fetch(f"SELECT * FROM {PREFIX}_t"))
    for level in ("read_committed", "repeatable_read", "serializable"):
        async with conn.transaction(isolation=level, readonly=True):
            await t.run(conn.fetchval("SHOW transaction_isolation"))
    await conn.execute("BEGIN")
    await t.run(conn.fetch("SELECT 1/0"))
    await t.run(conn.fetch("SELECT 1"))
    await conn.execute("ROLLBACK")
    await t.run(conn.execute(f"DROP TABLE {PREFIX}_t"))


async def cursors(conn, t):
    async with conn.transaction():
        rows = [r[0] async for r in conn.cursor("SELECT generate_series(1, $1::int)", 230, prefetch=40)]
        t.add(rows)
        cursor = await conn.cursor("SELECT i, i * i FROM generate_series(1, 90) i")
        await t.run(cursor.fetch(5))
        await t.run(cursor.forward(10))
        await t.run(cursor.fetchrow())


async def many_at_once(conn, t):
    await t.run(conn.executemany("SELECT $1::int", [(i,) for i in range(300)]))
    await t.run(conn.executemany("SELECT 10 / $1::int", [(2,), (1,), (0,), (3,)]))
    await t.run(conn.fetchval("SELECT 'goes on'"))


async def copy_both_ways(conn, t):
    table = f"{PREFIX}_copy"
    await t.run(conn.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n int PRIMARY KEY, s text)"))
    rows = [(i, f"row {i} \t ö") for i in range(5000)]
    await t.run(conn.copy_records_to_table(table, records=rows))
    await t.run(conn.copy_to_table(table, source=io.BytesIO(b"9000,nine\n"), format="csv"))
    await t.run(conn.copy_to_table(table, source=io.BytesIO(b"9001,ok\nbad,nine\n"), format="csv"))
    out = io.BytesIO()
    await t.run(conn.copy_from_query(f"SELECT * FROM {table} WHERE n < $1 ORDER BY n", 500, output=out))
    t.add(out.getvalue())
    await t.run(conn.copy_from_query("SELECT 1 / (5 - i) FROM generate_series(1, 9) i", output=io.BytesIO()))
    await t.run(conn.fetchrow(f"SELECT count(*), max(n) FROM {table}"))
    await t.run(conn.execute(f"DROP TABLE {table}"))


async def types_known_to_the_server_only(conn, t):
    await t.run(conn.execute(f"DROP TYPE IF EXISTS {PREFIX}_mood; CREATE TYPE {PREFIX}_mood AS ENUM ('sad', 'ok')"))
    await t.run(conn.fetchval(f"SELECT 'ok'::{PREFIX}_mood"))
    await t.run(conn.fetch(f"SELECT ARRAY['ok', 'sad']::{PREFIX}_mood[], ROW(1, 'x')"))
    await t.run(conn.execute(f"DROP TYPE {PREFIX}_mood"))


async def statement_timeout(conn, t):
    async with conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = '50ms'")
        await t.run(conn.fetch("SELECT pg_sleep(5)"))
        await t.run(conn.fetch("SELECT 1"))
        await conn.execute("ROLLBACK; BEGIN")
    await t.run(conn.fetchval("SELECT 'goes on'"))


async def cancelled_by_the_driver(conn, t):
    try:
        await conn.fetch("SELECT pg_sleep(30)", timeout=0.3)
    except (TimeoutError, asyncio.TimeoutError) as e:
        t.add(type(e).__name__)
    await t.run(conn.fetchval("SELECT 'goes on'"))


CASES = [
    all_statements, all_statements_simple, prepared, parameters, transactions, cursors, many_at_once,
    copy_both_ways, types_known_to_the_server_only, statement_timeout, cancelled_by_the_driver,
]


async def run_all(dsn):
    results = []
    for case in CASES:
        conn = await asyncpg.connect(dsn, timeout=30, command_timeout=60)
        t = Transcript(conn)
        try:
            await case(conn, t)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            t.add("ended the case")
            t.error(e)
        t.add(conn.is_in_transaction(), conn.is_closed())
        await conn.close()
        results.append((case.__name__, t.lines))
    return results


def main():
    direct, proxied = compare.dsns()
    compare.report(f"asyncpg {asyncpg.__version__}", asyncio.run(run_all(direct)), asyncio.run(run_all(proxied)))


if __name__ == "__main__":
    main()
