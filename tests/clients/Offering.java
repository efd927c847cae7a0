import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

/** Java's own client as it is without any setting: it offers HTTP/2 (`Upgrade: h2c`) with every request over http. */
public class Offering {
    /** Sends requests one after the other, each from five arguments: method, address, field, its value, body. */
    public static void main(String[] asked) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int at = 0; at < asked.length; at += 5) {
            var request = HttpRequest.newBuilder(URI.create(asked[at + 1]))
                    .timeout(Duration.ofSeconds(20))
                    .header(asked[at + 2], asked[at + 3])
                    .method(asked[at], BodyPublishers.ofString(asked[at + 4]))
                    .build();
            var answer = client.send(request, BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
