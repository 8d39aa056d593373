use super::*;

/// Each line is statements that are one, separated by ` ~ `; no two lines are one.
const GROUPS: &str = r#"
SELECT 1 ~ select 2 ~ SELECT  'x' ~ SELECT $1 ~ SELECT 1; ~ SELECT 1.5e-10 ~ SELECT -1 ~ SELECT /* c */ 1 ~ -- hi
SELECT a FROM t WHERE id = 1 ~ select a from t where id = 99 ~ SELECT a FROM t WHERE id = $1 ~ SELECT a FROM t WHERE id=1 ~ SELECT a FROM t WHERE id = -7 ~ SELECT a FROM t WHERE id = 'abc'
SELECT a FROM t WHERE id > 1 ~ SELECT a FROM t WHERE id > 1e5 ~ SELECT A FROM T WHERE ID > .5
SELECT a FROM t WHERE id >= 1 ~ SELECT a FROM t WHERE id >=1
SELECT b FROM t WHERE id = 1 ~ SELECT b FROM t WHERE id = 1 ;
SELECT a FROM u WHERE id = 1
SELECT a FROM s.t WHERE id = 1 ~ SELECT a FROM s.t WHERE id = 2
SELECT "a" FROM t WHERE id = 1 ~ SELECT "a" FROM t WHERE id = 2
SELECT "A" FROM t WHERE id = 1
SELECT a FROM t WHERE id IN (1) ~ SELECT a FROM t WHERE id IN (1, 2) ~ SELECT a FROM t WHERE id IN (1,2,3,4,5) ~ SELECT a FROM t WHERE id in ($1, $2) ~ SELECT a FROM t WHERE id IN ('x', 'y') ~ SELECT a FROM t WHERE id IN (-1, 2) ~ SELECT a FROM t WHERE id IN (NULL, 2)
SELECT a FROM t WHERE id NOT IN (1) ~ SELECT a FROM t WHERE id NOT IN (1, 2)
SELECT a FROM t WHERE id IN (1, b)
SELECT a FROM t WHERE id IN (SELECT 1)
SELECT a FROM t WHERE id IN (SELECT b FROM u) ~ select a from t where id in (select b from u)
SELECT a FROM t WHERE (a, b) IN ((1, 2)) ~ SELECT a FROM t WHERE (a, b) IN ((1, 2), (3, 4)) ~ SELECT a FROM t WHERE (a, b) IN (($1, $2), ($3, $4), ($5, $6))
SELECT a FROM t WHERE id IN ('1'::uuid) ~ SELECT a FROM t WHERE id IN ('1'::uuid, '2'::uuid)
SELECT a FROM t WHERE id = ANY($1) ~ SELECT a FROM t WHERE id = ANY('{1,2,3}')
SELECT a FROM t WHERE id = ANY(ARRAY[1]) ~ SELECT a FROM t WHERE id = ANY(ARRAY[1, 2, 3])
INSERT INTO t VALUES (1, 2) ~ INSERT INTO t VALUES (1, 2), (3, 4) ~ insert into t values ($1, $2) ~ INSERT INTO t VALUES ('a', NULL), ('b', true), ('c', -3)
INSERT INTO t VALUES (1, 2, 3) ~ INSERT INTO t VALUES (1, 2, 3), (4, 5, 6)
INSERT INTO t VALUES (1, DEFAULT)
INSERT INTO t (a, b) VALUES (1, 2) ~ INSERT INTO t (a, b) VALUES (1, 2), (3, 4)
INSERT INTO t (b, a) VALUES (1, 2)
INSERT INTO t VALUES (1, 2) RETURNING id ~ INSERT INTO t VALUES (1, 2), (3, 4) RETURNING id
INSERT INTO t VALUES (1, 2) ON CONFLICT DO NOTHING ~ INSERT INTO t VALUES (1, 2), (5, 6) ON CONFLICT DO NOTHING
INSERT INTO t DEFAULT VALUES ~ insert into t default values
INSERT INTO t SELECT 1
INSERT INTO t VALUES (1, now()) ~ INSERT INTO t VALUES (1, now()), (2, now())
UPDATE t SET a = 1 WHERE id = 2 ~ UPDATE t SET a = NULL WHERE id = 2 ~ UPDATE t SET a = $1 WHERE id = $2
UPDATE t SET a = a + 1 WHERE id = 2 ~ UPDATE t SET a = a + 5 WHERE id = 9
UPDATE t SET a = a - 1 WHERE id = 2 ~ UPDATE t SET a = a -1 WHERE id = 2
UPDATE t SET b = 1 WHERE id = 2
DELETE FROM t WHERE id = 1 ~ DELETE FROM t WHERE id = 'x'
DELETE FROM t
TRUNCATE t
BEGIN ~ begin ~ BEGIN; ~ Begin ;
START TRANSACTION
BEGIN ISOLATION LEVEL SERIALIZABLE
COMMIT
ROLLBACK
SAVEPOINT a ~ SAVEPOINT sp_123 ~ savepoint b
RELEASE SAVEPOINT a ~ RELEASE SAVEPOINT b
RELEASE a ~ RELEASE b
ROLLBACK TO SAVEPOINT a ~ ROLLBACK TO SAVEPOINT b
ROLLBACK TO a ~ ROLLBACK TO b
SET search_path TO a ~ SET search_path TO b ~ SET search_path TO "b" ~ set search_path to 'b'
SET search_path TO a, b ~ SET search_path TO c, "d"
SET app.secret = word ~ SET app.secret = other ~ SET app.secret = "other" ~ SET app.secret = 'word' ~ SET app.secret = on
SET LOCAL app.secret = word ~ SET LOCAL app.secret = 1
ALTER ROLE r SET app.secret TO word ~ ALTER ROLE r SET app.secret TO 'other'
ALTER TABLE t SET SCHEMA a
ALTER TABLE t SET SCHEMA b
ALTER TABLE t SET (a = b)
ALTER TABLE t RENAME TO a
ALTER TABLE t RENAME TO b
SET app.secret = word; SELECT a ~ SET app.secret = other; SELECT a
UPDATE t SET a = b
UPDATE t SET a = c
SET application_name = 'a' ~ SET application_name = 'b'
SELECT a FROM t WHERE b IS NULL
SELECT a FROM t WHERE b IS NOT NULL
SELECT a FROM t WHERE b = NULL ~ SELECT a FROM t WHERE b = 5 ~ SELECT a FROM t WHERE b = true
SELECT a FROM t WHERE b IS TRUE
SELECT a FROM t WHERE b IS FALSE
SELECT a FROM t LIMIT 1 ~ SELECT a FROM t LIMIT 10
SELECT a FROM t LIMIT 1 OFFSET 2 ~ SELECT a FROM t LIMIT 10 OFFSET 20
SELECT a FROM t ORDER BY a LIMIT 10
SELECT a FROM t ORDER BY a DESC LIMIT 10 ~ SELECT a FROM t ORDER BY a DESC LIMIT 11
SELECT f(1) ~ SELECT f('x') ~ SELECT F($1)
SELECT f(1, 2) ~ SELECT f($1, $2)
SELECT f(1, 2, 3)
SELECT f()
SELECT 1, 2 ~ SELECT $1, 'x'
SELECT 1, 2, 3
SELECT E'a\'b', 1, 1, 1 ~ SELECT 'a''b', 1, 1, 1
SELECT $$a; b$$, 1, 1, 1, 1 ~ SELECT $x$ c $$ d $x$, 1, 1, 1, 1 ~ SELECT B'101', X'ff', N'a', U&'\0061', 1
SELECT DATE '2020-01-01' ~ SELECT date '2021-12-31'
SELECT INTERVAL '1 day'
SELECT '2020-01-01'::date ~ SELECT $1::date
SELECT a->>'k' FROM t ~ SELECT a ->> 'other' FROM t
SELECT a->'k' FROM t ~ SELECT a->-1 FROM t
SELECT a ? 'k' FROM t
SELECT a[1] FROM t ~ SELECT a[2] FROM t
SELECT a[1:2] FROM t ~ SELECT a[3:4] FROM t
SELECT a FROM t; SELECT b FROM t ~ select a from t ; select b from t;
SELECT a FROM t; SELECT c FROM t
SELECT a FROM t; SELECT b FROM t; SELECT c FROM t
SELECT * FROM t
SELECT t.* FROM t
SELECT count(*) FROM t ~ SELECT COUNT ( * ) FROM t
SELECT count(a) FROM t
SELECT DISTINCT a FROM t
SELECT a FROM t JOIN u ON t.id = u.id WHERE u.x = 1 ~ SELECT a FROM t JOIN u ON t.id=u.id WHERE u.x = 'y'
SELECT a FROM t LEFT JOIN u ON t.id = u.id WHERE u.x = 1
SELECT a FROM t WHERE x BETWEEN 1 AND 2 ~ SELECT a FROM t WHERE x BETWEEN -1 AND -2
SELECT a FROM t WHERE x LIKE 'a%' ~ SELECT a FROM t WHERE x LIKE '%b'
SELECT a FROM t WHERE x ILIKE 'a%'
SELECT CASE WHEN a = 1 THEN 2 ELSE 3 END FROM t ~ SELECT CASE WHEN a = 5 THEN -6 ELSE -7 END FROM t
WITH x AS (SELECT 1) SELECT * FROM x ~ WITH x AS (SELECT 2) SELECT * FROM x
WITH y AS (SELECT 1) SELECT * FROM y
VALUES (1) ~ VALUES (1), (2), (3) ~ values ($1)
VALUES (1, 2) ~ VALUES (1, 2), (3, 4)
SELECT * FROM (VALUES (1), (2)) AS v ~ SELECT * FROM (VALUES (1), (2), (3)) AS v
SELECT * FROM (VALUES (1, 'a')) AS v ~ SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v
COPY t FROM STDIN
COPY t TO STDOUT
COPY t FROM STDIN WITH (FORMAT csv) ~ copy t from stdin with (format csv)
LISTEN a
LISTEN b
NOTIFY a, 'x' ~ NOTIFY a, 'y'
PREPARE p AS SELECT 1 ~ PREPARE p AS SELECT $1
EXECUTE p(1) ~ EXECUTE p(2)
EXECUTE p(1, 2)
DEALLOCATE p
CREATE TABLE x (id int)
CREATE TABLE y (id int)
CREATE TEMP TABLE x (id int)
DO $$ begin end $$ ~ DO 'something'
SELECT "user" FROM t
SELECT user FROM t ~ SELECT USER FROM t
SELECT a AS "b c" FROM t
SELECT a AS "b d" FROM t
SELECT a FROM t FOR UPDATE
SELECT a FROM t FOR UPDATE SKIP LOCKED
SELECT a FROM t WHERE NOT b
SELECT a FROM t WHERE b
SELECT a, b FROM t
SELECT b, a FROM t
SELECT a b FROM t
SELECT a.b FROM t
SELECT a - b FROM t ~ SELECT a-b FROM t
SELECT a + b FROM t
SELECT - a FROM t ~ SELECT -a FROM t
SELECT a FROM t WHERE ä = 1 ~ SELECT a FROM t WHERE ä = 2
SELECT a FROM t WHERE Ä = 1
"#;

/// Near misses: what must not be one, beside the groups.
const DIFFERENT: &[(&str, &str)] = &[
    ("SELECT a FROM t WHERE id IN (1, 2)", "SELECT a FROM t WHERE id = 1 OR id = 2"),
    ("SELECT f(1, 2)", "SELECT f((1, 2))"),
    ("SELECT 'a' || 'b'", "SELECT 'a'"),
    ("INSERT INTO t VALUES (1, f(2)), (3, g(4))", "INSERT INTO t VALUES (1, f(2))"),
    ("INSERT INTO t VALUES (1, 2), (3, DEFAULT)", "INSERT INTO t VALUES (1, 2)"),
    ("SELECT a FROM t -- WHERE b = 1", "SELECT a FROM t WHERE b = 1"),
    ("SELECT a /* , b */ FROM t", "SELECT a, b FROM t"),
    ("SELECT a; SELECT a", "SELECT a"),
    ("SELECT a FROM t WHERE id IN (a, b)", "SELECT a FROM t WHERE id IN (a)"),
    ("SELECT abcdefgh", "SELECT abcdefgi"),
    ("SELECT abcdefghi", "SELECT abcdefgh"),
    ("SELECT abcdefghabcdefgh1", "SELECT abcdefghabcdefgh2"),
    ("SELECT a1", "SELECT a2"),
    ("SELECT ab FROM t", "SELECT a, b FROM t"),
    ("SELECT _", "SELECT a"),
];

fn groups() -> Vec<Vec<&'static str>> {
    let lines = GROUPS.lines().filter(|l| !l.is_empty());
    lines.map(|l| l.split(" ~ ").filter(|s| !s.starts_with("--")).collect()).collect()
}

#[test]
fn at_least_two_hundred_pairs_are_equal_or_not_as_they_must_be() {
    let groups = groups();
    let (mut equal, mut different) = (0, 0);
    for (i, group) in groups.iter().enumerate() {
        for (j, a) in group.iter().enumerate() {
            for b in &group[j + 1..] {
                assert_eq!(fingerprint(a.as_bytes()), fingerprint(b.as_bytes()), "{a}\n{b}");
                equal += 1;
            }
        }
        for other in &groups[i + 1..] {
            let (a, b) = (group[0], other[0]);
            assert_ne!(fingerprint(a.as_bytes()), fingerprint(b.as_bytes()), "{a}\n{b}");
            different += 1;
        }
    }
    for (a, b) in DIFFERENT {
        assert_ne!(fingerprint(a.as_bytes()), fingerprint(b.as_bytes()), "{a}\n{b}");
        different += 1;
    }
    assert!(equal >= 150 && different >= 200, "{equal} equal, {different} different");
}

/// What is shown is what is counted: statements with one number have one text, but for spaces and case.
#[test]
fn the_text_says_what_the_number_does() {
    let squeeze = |s: &str| {
        let text = normal(s.as_bytes(), 10_000).text.to_lowercase();
        text.trim_end_matches(';').split_whitespace().collect::<String>()
    };
    let mut seen = std::collections::HashMap::new();
    for group in groups() {
        let text = squeeze(group[0]);
        for s in &group {
            assert_eq!(squeeze(s), text, "{s}");
            // The text of a statement is a statement with the same number again.
            if !text.contains("->?") {
                let again = normal(s.as_bytes(), 10_000).text.replace('?', "$1");
                assert!(s.contains('?') || fingerprint(again.as_bytes()) == fingerprint(s.as_bytes()), "{s}");
            }
        }
        if !text.contains('"') && !text.contains("fromstdinwith") {
            let before = seen.insert(text.clone(), group[0]);
            assert!(before.is_none() || text.len() < 12 || text.contains("selecta"), "{before:?} {text}");
        }
    }
}

#[test]
fn what_is_shown() {
    let text = |s: &str| normal(s.as_bytes(), 1000).text;
    assert_eq!(
        text("SELECT  a,\n b FROM t\tWHERE id = 'secret' AND x=5"),
        "SELECT a, b FROM t WHERE id = ? AND x=?"
    );
    assert_eq!(
        text("SELECT a FROM t WHERE id IN (1, 2, 3) AND b = 4"),
        "SELECT a FROM t WHERE id IN (?) AND b = ?"
    );
    assert_eq!(text("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')"), "INSERT INTO t VALUES (?, ?)");
    assert_eq!(text(" SELECT 1; SELECT 2; "), "SELECT ?; SELECT ?");
    assert_eq!(text(""), "");
    assert_eq!(normal(b"SELECT aaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbb", 20).text, "SELECT aaaaaaaaaaaaa ...");
    let n = normal(b"/* app='shop', id=77, route:/orders */ SELECT 1 -- two", 1000);
    assert_eq!(
        (n.text.as_str(), n.comment.as_deref()),
        ("SELECT ?", Some("/* app=?, id=?, route:/orders */"))
    );
}

#[test]
fn nothing_of_a_password_is_shown() {
    for s in [
        "ALTER USER joe PASSWORD 'hunter2'",
        "alter role joe with encrypted password 'hunter2' valid until 'x'",
        "CREATE ROLE hunter2 LOGIN PASSWORD $$hunter2$$",
        "ALTER USER joe PASSWORD hunter2",
        "/* password hunter2 */ ALTER USER joe PASSWORD 'hunter2'",
        // With standard_conforming_strings off the second literal is none.
        r"SELECT 'a\' PASSWORD hunter2 -- '",
    ] {
        let n = normal(s.as_bytes(), 1000);
        assert!(!n.text.contains("hunter2") && n.comment.is_none(), "{n:?}");
        assert!(n.text.contains("is not shown"), "{n:?}");
    }
    let n = normal(b"SELECT 1 /* the password is hunter2 */", 1000);
    assert_eq!(n.comment, None);
    // What may be a literal in another reading stays inside.
    assert_eq!(normal(br"SELECT 'it\'s secret', 'more'", 1000).text, "SELECT ? ...");
}

#[test]
fn nothing_that_a_set_sets_is_shown() {
    for (s, shown) in [
        ("SET app.secret = hunter2", "SET app.secret = ?"),
        ("set local app.secret to \"hunter2\"", "set local app.secret to ?"),
        ("SELECT 1; SET app.secret = hunter2", "SELECT ?; SET app.secret = ?"),
        ("SET app.secret = hunter2, hunter2-hunter2", "SET app.secret = ?, ?-?"),
        ("ALTER DATABASE d SET app.secret = hunter2", "ALTER DATABASE d SET app.secret = ?"),
        ("SET app.a = hunter2; UPDATE t SET a = b", "SET app.a = ?; UPDATE t SET a = b"),
        ("SET ROLE r", "SET ROLE r"),
        ("alter system set app.secret = hunter2", "alter system set app.secret = ?"),
        (
            "ALTER ROLE set IN DATABASE d SET \"app\".secret TO hunter2",
            "ALTER ROLE set IN DATABASE d SET \"app\".secret TO ?",
        ),
        ("ALTER FUNCTION f(int) SET app.secret TO hunter2", "ALTER FUNCTION f(int) SET app.secret TO ?"),
        (
            "create function f(a int = 5) returns int language sql set app.secret = hunter2 as 'hunter2'",
            "create function f(a int = ?) returns int language sql set app.secret = ?",
        ),
        (
            "CREATE OR REPLACE PROCEDURE p() SET app.a TO hunter2 SET app.b TO hunter2 BEGIN ATOMIC SELECT 1; SELECT a; END",
            "CREATE OR REPLACE PROCEDURE p() SET app.a TO ? .? ; SELECT a; END",
        ),
        (
            "CREATE FUNCTION f() RETURNS int SET a.b FROM CURRENT SET app.secret/**/=/**/U&\"hunter2\" AS $$hunter2$$",
            "CREATE FUNCTION f() RETURNS int SET a.b FROM CURRENT SET app.secret = ?",
        ),
        (
            "CREATE TABLE t (a int REFERENCES u ON DELETE SET NULL, b int REFERENCES v ON UPDATE SET DEFAULT, CHECK (a = b))",
            "CREATE TABLE t (a int REFERENCES u ON DELETE SET NULL, b int REFERENCES v ON UPDATE SET DEFAULT, CHECK (a = b))",
        ),
        // What PostgreSQL takes as a literal only.
        (
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'x', token $$hunter2$$, ADD k E'hunter2')",
            "CREATE USER MAPPING FOR u SERVER s OPTIONS (user ?, token ?, ADD k ?)",
        ),
        ("SELECT dblink_connect('c', 'token=hunter2')", "SELECT dblink_connect(?, ?)"),
        ("COPY t FROM PROGRAM 'curl -u x:hunter2'", "COPY t FROM PROGRAM ?"),
        (
            "CREATE SUBSCRIPTION s CONNECTION U&'hunter2' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION ? PUBLICATION p",
        ),
    ] {
        assert_eq!(normal(s.as_bytes(), 1000).text, shown);
    }
}

#[test]
fn any_bytes_are_taken() {
    use proptest::prelude::*;
    proptest!(ProptestConfig::with_cases(2000), |(bytes: Vec<u8>)| {
        fingerprint(&bytes);
        normal(&bytes, 100);
    });
    proptest!(ProptestConfig::with_cases(2000), |(s in "[a-c1 ,()'\\[\\]$;/*.:+-]{0,40}")| {
        fingerprint(s.as_bytes());
        normal(s.as_bytes(), 100);
    });
}
