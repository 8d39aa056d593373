"""Where the read-only transactions of a driver run: DRIVER, proxied DSN, direct DSN, primary's port, replicas' ports."""

import asyncio
import sys

WHERE = "SELECT pg_is_in_recovery(), inet_server_port()"


def check(what, got, want):
    if got not in want:
        sys.exit(f"{what}: ran on {got}, not on one of {want}")


def psycopg_driver(proxied, direct, primary, replicas):
    import psycopg

    # A session that only reads.
    with psycopg.connect(proxied) as conn:
        conn.read_only = True
        for _ in range(20):
            with conn.transaction():
                check("read_only", conn.execute(WHERE).fetchone(), replicas)
        # Prepared by the driver from the sixth run on.
        for i in range(20):
            with conn.transaction():
                check("prepared", conn.execute(WHERE + " WHERE %s > -1", (i,)).fetchone(), replicas)
    # The same session writes and reads in turn.
    with psycopg.connect(proxied) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS psycopg_t (n int)")
        conn.commit()
        for i in range(10):
            conn.read_only = False
            conn.execute("INSERT INTO psycopg_t VALUES (%s)", (i,))
            check("a write", conn.execute(WHERE).fetchone(), primary)
            conn.commit()
            conn.read_only = True
            check("a read", conn.execute(WHERE).fetchone(), replicas)
            try:
                # Of a table that the replica need not have yet.
                conn.execute("CREATE TABLE psycopg_none (n int)")
                sys.exit("a write was taken by a replica")
            except psycopg.errors.ReadOnlySqlTransaction:
                pass
            conn.rollback()
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        check("serializable", conn.execute(WHERE).fetchone(), primary)
        conn.rollback()
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        check("repeatable read", conn.execute(WHERE).fetchone(), replicas)
        conn.rollback()
        conn.read_only, conn.isolation_level = None, None
        conn.execute("DROP TABLE psycopg_t")
        conn.commit()
    # By a default of the session, and by what the startup packet says.
    with psycopg.connect(proxied, autocommit=True) as conn:
        check("autocommit", conn.execute(WHERE).fetchone(), primary)
        conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        check("characteristics", conn.execute(WHERE).fetchone(), replicas)
        conn.execute("SET default_transaction_read_only = off")
        check("off again", conn.execute(WHERE).fetchone(), primary)
    for options in ("-c default_transaction_read_only=on", "-c howdah.role=replica"):
        with psycopg.connect(proxied, autocommit=True, options=options) as conn:
            check(options, conn.execute(WHERE).fetchone(), replicas)
            # Whoever serves, the client sees the server that it asked for.
            if conn.info.parameter_status("in_hot_standby") not in ("off", None):
                sys.exit("in_hot_standby shows")
    # What a client sees in a transaction that reads is what it sees without Howdah.
    seen = []
    for dsn in (direct, proxied):
        with psycopg.connect(dsn) as conn:
            conn.read_only = True
            lines = []
            for sql in ("SELECT 1 AS one, 'x' AS x", "SELECT 1/0", "SHOW transaction_read_only", "VALUES (NULL)"):
                try:
                    cur = conn.execute(sql)
                    lines.append((cur.statusmessage, cur.description, cur.fetchall(), conn.info.transaction_status))
                except psycopg.Error as e:
                    lines.append((e.sqlstate, e.diag.message_primary, conn.info.transaction_status))
                    conn.rollback()
            names = ("in_hot_standby", "default_transaction_read_only", "TimeZone", "client_encoding", "server_version")
            lines.append([(n, conn.info.parameter_status(n)) for n in names])
            seen.append(repr(lines))
    if seen[0] != seen[1]:
        sys.exit(f"direct:  {seen[0]}\nproxied: {seen[1]}")


async def asyncpg_driver(proxied, direct, primary, replicas):
    import asyncpg

    conn = await asyncpg.connect(proxied)
    for _ in range(20):
        async with conn.transaction(readonly=True):
            check("readonly", tuple(await conn.fetchrow(WHERE)), replicas)
        async with conn.transaction():
            check("a write", tuple(await conn.fetchrow(WHERE)), primary)
    async with conn.transaction(readonly=True, isolation="serializable", deferrable=True):
        check("serializable", tuple(await conn.fetchrow(WHERE)), primary)
    async with conn.transaction(readonly=True, isolation="repeatable_read"):
        check("repeatable read", tuple(await conn.fetchrow(WHERE)), replicas)
        try:
            await conn.execute("CREATE TABLE asyncpg_t (n int)")
            sys.exit("a write was taken by a replica")
        except asyncpg.ReadOnlySQLTransactionError:
            pass
    await conn.close()
    seen = []
    for dsn in (direct, proxied):
        conn = await asyncpg.connect(dsn)
        lines = []
        for sql in ("SELECT 1 AS one, 'x' AS x", "SELECT 1/0", "CREATE TABLE asyncpg_none (n int)",
                    "SHOW transaction_read_only", "SELECT $1::int + n FROM generate_series(1, 3) AS n"):
            args = (40,) if "$1" in sql else ()
            try:
                async with conn.transaction(readonly=True):
                    lines.append([dict(r) for r in await conn.fetch(sql, *args)])
            except asyncpg.PostgresError as e:
                lines.append((e.sqlstate, str(e)))
        settings = conn.get_settings()
        lines.append((settings.server_encoding, getattr(settings, "in_hot_standby", None)))
        seen.append(repr(lines))
        await conn.close()
    if seen[0] != seen[1]:
        sys.exit(f"direct:  {seen[0]}\nproxied: {seen[1]}")


def sqlalchemy_driver(proxied, direct, primary, replicas):
    import sqlalchemy

    engine = sqlalchemy.create_engine(proxied.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as conn:
        check("a write", tuple(conn.execute(sqlalchemy.text(WHERE)).one()), primary)
    reads = engine.execution_options(postgresql_readonly=True)
    for _ in range(10):
        with reads.connect() as conn:
            check("postgresql_readonly", tuple(conn.execute(sqlalchemy.text(WHERE)).one()), replicas)
    # One engine, both ways in turn; a write in what only reads is refused as PostgreSQL refuses it.
    with engine.begin() as conn:
        conn.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS alchemy_t (n int)"))
    for i in range(5):
        with engine.begin() as conn:
            conn.execute(sqlalchemy.text("INSERT INTO alchemy_t VALUES (:n)"), {"n": i})
            check("a write", tuple(conn.execute(sqlalchemy.text(WHERE)).one()), primary)
        with reads.connect() as conn:
            check("a read", tuple(conn.execute(sqlalchemy.text(WHERE)).one()), replicas)
    seen = []
    for dsn in (direct, proxied):
        e = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
        lines = []
        with e.execution_options(postgresql_readonly=True).connect() as conn:
            for sql in ("SELECT 1 AS one", "CREATE TABLE alchemy_none (n int)", "SELECT 1/0", "SHOW transaction_read_only"):
                try:
                    lines.append(list(conn.execute(sqlalchemy.text(sql)).mappings()))
                except sqlalchemy.exc.DBAPIError as error:
                    lines.append((error.orig.sqlstate, error.orig.diag.message_primary))
                    conn.rollback()
        seen.append(repr(lines))
    if seen[0] != seen[1]:
        sys.exit(f"direct:  {seen[0]}\nproxied: {seen[1]}")


def main():
    driver, proxied, direct, primary, replicas = sys.argv[1:]
    primary = [(False, int(primary))]
    replicas = [(True, int(p)) for p in replicas.split(",")]
    run = globals()[f"{driver}_driver"]
    result = run(proxied, direct, primary, replicas)
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    print("ok")


main()
