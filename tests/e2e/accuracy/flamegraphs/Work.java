import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** A service whose answers take some work. */
public class Work {
    private static final Pattern SEVENTH = Pattern.compile("[a-z]+ [0-9]*7");

    record Row(int id, String name) {}

    static class Tree {
        final int key;
        Tree left;
        Tree right;

        Tree(int key) {
            this.key = key;
        }

        void insert(int key) {
            if (key < this.key) {
                if (left == null) {
                    left = new Tree(key);
                } else {
                    left.insert(key);
                }
            } else if (right == null) {
                right = new Tree(key);
            } else {
                right.insert(key);
            }
        }

        long sum() {
            return key + (left == null ? 0 : left.sum()) + (right == null ? 0 : right.sum());
        }
    }

    static long plant(int count) {
        Tree tree = new Tree(2050);
        for (int i = 0; i < count; i++) {
            tree.insert(i * 7919 % 4099);
        }
        return tree.sum();
    }

    static List<Row> order(int count) {
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            rows.add(new Row(i, "name " + i * 7919 % 4099));
        }
        rows.sort(Comparator.comparing(Row::name));
        return rows;
    }

    static String rewrite(List<Row> rows) {
        String text = rows.stream().map(Row::name).collect(Collectors.joining(" "));
        return SEVENTH.matcher(text).replaceAll(found -> found.group().toUpperCase());
    }

    static void answer(HttpExchange exchange) throws IOException {
        byte[] body = (plant(2000) + " " + rewrite(order(1000))).getBytes();
        exchange.sendResponseHeaders(200, body.length);
        try (var out = exchange.getResponseBody()) {
            out.write(body);
        }
    }

    public static void main(String[] arguments) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 8080), 64);
        server.createContext("/", Work::answer);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
