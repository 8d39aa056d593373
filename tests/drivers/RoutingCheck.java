// pgjdbc through Howdah: reads land on replicas, writes never do, and what is seen is what a direct connection shows.
// java -cp postgresql.jar tests/drivers/RoutingCheck.java PROXIED DIRECT PRIMARY REPLICAS   (ports; REPLICAS with commas)
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;

public class RoutingCheck {
    static final String WHERE = "SELECT pg_is_in_recovery(), inet_server_port()";

    static Connection connect(String port, String more) throws SQLException {
        return DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + port + "/app?user=app" + more);
    }

    static void fail(String what) {
        System.err.println(what);
        System.exit(1);
    }

    static void check(String what, Connection c, boolean replica, Set<String> ports) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(WHERE); ResultSet r = s.executeQuery()) {
            r.next();
            if (r.getBoolean(1) != replica || !ports.contains(r.getString(2))) {
                fail(what + ": " + r.getBoolean(1) + " " + r.getString(2) + ", not " + replica + " " + ports);
            }
        }
    }

    static void refused(String what, Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.executeUpdate("INSERT INTO jdbc_t VALUES (1)");
            fail(what + ": a write was taken");
        } catch (SQLException e) {
            if (!"25006".equals(e.getSQLState())) {
                fail(what + ": " + e.getSQLState());
            }
        }
    }

    // What a client sees, in words.
    static List<String> transcript(String port, String more) throws SQLException {
        List<String> lines = new ArrayList<>();
        try (Connection c = connect(port, more)) {
            c.setReadOnly(true);
            c.setAutoCommit(false);
            String[] all = {"SELECT 1 AS one, 'x' AS x", "SELECT 1/0", "SHOW transaction_read_only",
                "SELECT n FROM jdbc_t ORDER BY n", "INSERT INTO jdbc_t VALUES (7)", "VALUES (NULL::text)"};
            for (String sql : all) {
                try (Statement s = c.createStatement()) {
                    boolean rows = s.execute(sql);
                    ResultSet r = rows ? s.getResultSet() : null;
                    ResultSetMetaData m = rows ? r.getMetaData() : null;
                    while (rows && r.next()) {
                        for (int i = 1; i <= m.getColumnCount(); i++) {
                            lines.add(m.getColumnLabel(i) + " " + m.getColumnTypeName(i) + " " + r.getString(i));
                        }
                    }
                    c.commit();
                } catch (SQLException e) {
                    lines.add(e.getSQLState() + " " + e.getMessage());
                    c.rollback();
                }
            }
            lines.add(c.getMetaData().getDatabaseProductVersion());
        }
        return lines;
    }

    public static void main(String[] args) throws SQLException {
        String proxied = args[0], direct = args[1];
        Set<String> primary = Set.of(args[2]);
        Set<String> replicas = new TreeSet<>(Arrays.asList(args[3].split(",")));
        try (Connection c = connect(direct, "")) {
            c.createStatement().execute("CREATE TABLE IF NOT EXISTS jdbc_t (n int)");
        }
        try (Connection c = connect(proxied, "")) {
            c.setAutoCommit(false);
            for (int i = 0; i < 10; i++) {
                c.setReadOnly(true);
                check("setReadOnly(true)", c, true, replicas);
                check("the same transaction", c, true, replicas);
                c.commit();
                c.setReadOnly(false);
                check("setReadOnly(false)", c, false, primary);
                c.createStatement().executeUpdate("INSERT INTO jdbc_t VALUES (2)");
                c.commit();
            }
            c.setReadOnly(true);
            refused("setReadOnly(true)", c);
            c.rollback();
        }
        // Tells the server of the session: reads outside of blocks, too.
        try (Connection c = connect(proxied, "&readOnlyMode=always")) {
            c.setReadOnly(true);
            for (int i = 0; i < 10; i++) {
                check("readOnlyMode=always", c, true, replicas);
            }
            refused("readOnlyMode=always", c);
            c.setReadOnly(false);
            check("off again", c, false, primary);
            c.createStatement().executeUpdate("INSERT INTO jdbc_t VALUES (3)");
        }
        for (String more : new String[] {"", "&readOnlyMode=always", "&preferQueryMode=simple"}) {
            List<String> seen = transcript(proxied, more), wanted = transcript(direct, more);
            if (!seen.equals(wanted)) {
                fail(more + "\ndirect:  " + wanted + "\nproxied: " + seen);
            }
        }
        System.out.println("ok");
    }
}
