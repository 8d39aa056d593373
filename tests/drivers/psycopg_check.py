"""psycopg 3, direct against proxied: simple and extended, prepared, pipelines, COPY, cursors, errors."""

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

import compare

PREFIX = "drv_psycopg"


class Transcript:
    """What one case saw, as lines."""

    def __init__(self, conn):
        self.lines = []
        conn.add_notice_handler(lambda d: self.add("notice", d.severity, d.sqlstate, d.message_primary, d.message_hint))

    def add(self, *what):
        self.lines.append(repr(what))

    def error(self, e):
        d = e.diag
        self.add("error", type(e).__name__, e.sqlstate, d.message_primary, d.message_detail, d.message_hint,
                 d.statement_position, d.constraint_name, str(e) if e.sqlstate is None else None)

    def result(self, cur):
        while True:
            types = [(c.name, c.type_code) for c in cur.description or []]
            rows = cur.fetchall() if cur.description else None
            self.add(cur.statusmessage, types, rows)
            if not cur.nextset():
                return

    def run(self, conn, statement, params=None, **options):
        try:
            self.result(conn.execute(statement, params, **options))
        except psycopg.Error as e:
            self.error(e)


def all_statements(conn, t):
    for s in compare.statements(PREFIX):
        t.run(conn, s)


def all_statements_binary(conn, t):
    for s in compare.statements(PREFIX):
        t.run(conn, s, binary=True)


def all_statements_prepared(conn, t):
    for s in compare.statements(PREFIX):
        t.run(conn, s, prepare=True)


def prepared_many_times(conn, t):
    conn.prepare_threshold = 2
    for i in range(12):
        t.run(conn, "SELECT %s::int * 2, %s::text", (i, f"nonce {i}"))
    for i in range(150):
        t.run(conn, f"SELECT {i} + %s::int", (i,), prepare=True)


def parameters(conn, t):
    import datetime
    import decimal
    import uuid

    values = [
        True, 7, 2**40, -1.5, decimal.Decimal("12.340"), "äöü 🐘", b"\x00\xff", None, [1, 2, 3], ["a", None],
        datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 1, 2, 3), datetime.timedelta(days=3, seconds=7),
        uuid.UUID(int=7),
    ]
    for value in values:
        for fmt in ("%s", "%t", "%b"):
            t.run(conn, f"SELECT {fmt}, pg_typeof({fmt})::text", (value, value))


def several_statements_in_one(conn, t):
    t.run(conn, "SELECT 1; SELECT 2, 'b'; SELECT 3 WHERE false")
    t.run(conn, "SELECT 1; SELECT 1/0; SELECT 3")
    t.run(conn, "")
    t.run(conn, ";")


def transactions(conn, t):
    conn.autocommit = False
    t.run(conn, f"DROP TABLE IF EXISTS {PREFIX}_t")
    t.run(conn, f"CREATE TABLE {PREFIX}_t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    conn.commit()
    t.run(conn, f"INSERT INTO {PREFIX}_t VALUES (1), (2)")
    conn.rollback()
    t.run(conn, f"SELECT count(*) FROM {PREFIX}_t")
    t.run(conn, "SELECT 1/0")
    t.add(conn.info.transaction_status)
    t.run(conn, "SELECT 1")
    conn.rollback()
    with conn.transaction():
        t.run(conn, f"INSERT INTO {PREFIX}_t VALUES (3)")
        try:
            with conn.transaction():
                t.run(conn, f"INSERT INTO {PREFIX}_t VALUES (4)")
                conn.execute("SELECT 'x'::int")
        except psycopg.Error as e:
            t.error(e)
    t.run(conn, f"SELECT * FROM {PREFIX}_t ORDER BY n")
    conn.commit()
    t.run(conn, f"INSERT INTO {PREFIX}_t VALUES (3)")
    try:
        conn.commit()
    except psycopg.Error as e:
        t.error(e)
    conn.rollback()
    for level in psycopg.IsolationLevel:
        conn.isolation_level = level
        t.run(conn, "SHOW transaction_isolation")
        conn.commit()
    conn.isolation_level = None
    conn.read_only = True
    t.run(conn, f"INSERT INTO {PREFIX}_t VALUES (9)")
    conn.rollback()
    conn.read_only = None
    t.run(conn, f"DROP TABLE {PREFIX}_t")
    conn.commit()


def temporary_table(conn, t):
    with conn.transaction():
        t.run(conn, f"CREATE TEMP TABLE {PREFIX}_tmp (n int) ON COMMIT DROP")
        t.run(conn, f"INSERT INTO {PREFIX}_tmp SELECT generate_series(1, 3) RETURNING n")
        t.run(conn, "SET LOCAL statement_timeout = '7s'")
        t.run(conn, "SHOW statement_timeout")
    t.run(conn, "SHOW statement_timeout")


def pipeline(conn, t):
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int, repeat('p', %s)", (i, i)) for i in range(50)]
        for cur in cursors:
            t.result(cur)


def pipeline_with_syncs_and_errors(conn, t):
    # Which call raises the error depends on when the answer arrives; that it is raised does not.
    errors = set()

    def attempt(step):
        try:
            step()
        except psycopg.Error as e:
            errors.add((type(e).__name__, e.sqlstate, str(e)))

    cursors = [conn.cursor() for _ in range(5)]
    texts = ["SELECT 'before'", "SELECT 1/0", "SELECT 'skipped'", "SELECT 'after'", "SELECT 'last'"]
    with conn.pipeline() as p:
        for i, (cur, text) in enumerate(zip(cursors, texts, strict=True)):
            attempt(lambda: cur.execute(text))
            if i in (0, 2, 3):
                attempt(p.sync)
        for cur in cursors:
            attempt(cur.fetchall)
        attempt(p.sync)
    t.add(sorted(e for e in errors if e[1]))
    t.run(conn, "SELECT 'goes on'")


def pipeline_in_transaction(conn, t):
    with conn.pipeline(), conn.transaction():
        conn.execute(f"CREATE TEMP TABLE {PREFIX}_pipe (n int) ON COMMIT DROP")
        with conn.cursor() as cur:
            cur.executemany(f"INSERT INTO {PREFIX}_pipe VALUES (%s)", [(i,) for i in range(200)])
        t.result(conn.execute(f"SELECT count(*), sum(n) FROM {PREFIX}_pipe"))


def executemany_returning(conn, t):
    with conn.cursor() as cur:
        cur.executemany("SELECT %s::int + 1", [(i,) for i in range(20)], returning=True)
        t.result(cur)


def copy_both_ways(conn, t):
    t.run(conn, f"DROP TABLE IF EXISTS {PREFIX}_copy")
    t.run(conn, f"CREATE TABLE {PREFIX}_copy (n int PRIMARY KEY, s text)")
    with conn.cursor() as cur:
        with cur.copy(f"COPY {PREFIX}_copy FROM STDIN") as copy:
            for i in range(5000):
                copy.write_row((i, f"row {i} \t tab \\ backslash"))
        t.add(cur.statusmessage)
        with cur.copy(f"COPY (SELECT * FROM {PREFIX}_copy ORDER BY n) TO STDOUT") as copy:
            t.add(b"".join(copy))
        t.add(cur.statusmessage)
        with cur.copy(f"COPY (SELECT n FROM {PREFIX}_copy ORDER BY n LIMIT 9) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4"])
            t.add(list(copy.rows()))
        with cur.copy(f"COPY {PREFIX}_copy FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((100000, "binary"))
    try:
        with conn.cursor().copy(f"COPY {PREFIX}_copy FROM STDIN") as copy:
            copy.write("100001\tgood\nbad number\tx\n")
    except psycopg.Error as e:
        t.error(e)
    try:
        with conn.cursor().copy(f"COPY {PREFIX}_copy FROM STDIN") as copy:
            copy.write("100002\tgood\n")
            raise RuntimeError("the program fails in the middle")
    except (RuntimeError, psycopg.Error) as e:
        t.add(type(e).__name__, str(e))
    try:
        with conn.cursor().copy("COPY (SELECT 100 / (50 - i) FROM generate_series(1, 99) i) TO STDOUT") as copy:
            for row in copy:
                t.add(bytes(row))
    except psycopg.Error as e:
        t.error(e)
    t.run(conn, f"SELECT count(*), max(n) FROM {PREFIX}_copy")
    t.run(conn, f"DROP TABLE {PREFIX}_copy")


def server_side_cursors(conn, t):
    with conn.transaction(), conn.cursor("named", scrollable=True) as cur:
        cur.execute("SELECT i, i * 3 FROM generate_series(1, 500) i")
        t.add(cur.fetchone(), cur.fetchmany(7))
        cur.scroll(-5)
        t.add(cur.fetchmany(3))
        cur.itersize = 50
        t.add([row for row in cur][-1])
    with conn.transaction():
        t.run(conn, "DECLARE c CURSOR FOR SELECT generate_series(1, 5)")
        t.run(conn, "FETCH 2 FROM c")
        t.run(conn, "MOVE 1 IN c")
        t.run(conn, "FETCH ALL FROM c")
    t.run(conn, "FETCH 1 FROM c")


def streaming(conn, t):
    with conn.cursor(row_factory=dict_row) as cur:
        t.add(sum(len(row["s"]) for row in cur.stream("SELECT repeat('s', i) AS s FROM generate_series(1, 500) i")))


def session_parameters(conn, t):
    t.run(conn, "SET timezone = 'Asia/Kolkata'")
    t.run(conn, "SELECT TIMESTAMPTZ '2024-01-01 00:00:00+00'::text")
    t.run(conn, "SET datestyle = 'German, DMY'")
    t.run(conn, "SELECT DATE '2024-02-29'::text")
    t.run(conn, "SET application_name = 'renamed'")
    t.run(conn, "SHOW application_name")
    t.run(conn, "RESET datestyle")
    t.run(conn, "SELECT DATE '2024-02-29'::text")
    t.add(conn.info.encoding, conn.info.timezone.key, conn.info.parameter_status("application_name"))


def identifiers_and_composed(conn, t):
    t.result(conn.execute(sql.SQL("SELECT {} AS {}").format(sql.Literal("it's"), sql.Identifier('we"ird'))))


CASES = [
    all_statements, all_statements_binary, all_statements_prepared, prepared_many_times, parameters,
    several_statements_in_one, transactions, temporary_table, pipeline, pipeline_with_syncs_and_errors,
    pipeline_in_transaction, executemany_returning, copy_both_ways, server_side_cursors, streaming,
    session_parameters, identifiers_and_composed,
]


def run_case(dsn, case):
    with psycopg.connect(dsn, autocommit=True, application_name="psycopg_check") as conn:
        t = Transcript(conn)
        try:
            case(conn, t)
        except psycopg.Error as e:
            t.add("ended the case")
            t.error(e)
        t.add(conn.info.transaction_status, conn.broken)
    return case.__name__, t.lines


def main():
    direct, proxied = compare.dsns()
    compare.report(
        f"psycopg {psycopg.__version__}",
        [run_case(direct, case) for case in CASES],
        [run_case(proxied, case) for case in CASES],
    )


if __name__ == "__main__":
    main()
