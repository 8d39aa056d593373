"""An application's pool whose `init` sets every connection up once, as on connections of one's own: a codec, statements of
SQL's PREPARE, and a session that only reads. The names are used all the time, and nothing of it is ever missing.

DSN, number of clients, "reset" (asyncpg's own, whenever a connection goes back to the pool) or "keep"."""

import asyncio
import json
import sys

import asyncpg

ROUNDS = 6


async def init(conn):
    await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await conn.execute("PREPARE get_quote_by_id (int) AS SELECT id, body FROM quotes WHERE id = $1")
    await conn.execute("PREPARE count_quotes AS SELECT count(*) FROM quotes")
    await conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")


async def keep(conn):
    """In the place of asyncpg's RESET ALL, which takes the session's characteristics back."""


def expect(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: {got!r} in place of {want!r}")


async def work(pool, client, kept):
    for round in range(ROUNDS):
        n = (client * ROUNDS + round) % 100 + 1
        async with pool.acquire() as conn:
            row = await conn.fetchrow(f"EXECUTE get_quote_by_id({n})")
            expect("a quote", (row["id"], row["body"]), (n, {"quote": n}))
            expect("how many", await conn.fetchval("EXECUTE count_quotes"), 100)
            expect("a parameter", await conn.fetchval("SELECT $1::jsonb", {"n": n}), {"n": n})
            async with conn.transaction():
                row = await conn.fetchrow(f"EXECUTE get_quote_by_id({n})")
                expect("a quote in a block", row["id"], n)
                expect("where", await conn.fetchval("SELECT pg_is_in_recovery()"), True)
            if kept:
                expect("a default", await conn.fetchval("SHOW default_transaction_read_only"), "on")


async def main(dsn, clients, how):
    kept = how == "keep"
    reset = {"reset": keep} if kept else {}
    async with asyncpg.create_pool(dsn, min_size=clients, max_size=clients, init=init, **reset) as pool:
        done = await asyncio.gather(*(work(pool, n, kept) for n in range(clients)), return_exceptions=True)
    errors = [e for e in done if e is not None]
    if errors:
        sys.exit(f"{len(errors)} of {clients} clients failed, the first with {errors[0]!r}")


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
