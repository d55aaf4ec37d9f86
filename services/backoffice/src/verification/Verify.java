// Verifies a webhook of Shopery. Java 11 or later, no libraries.
import static java.nio.charset.StandardCharsets.UTF_8;

import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.function.UnaryOperator;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public final class Verify {
    private static final long TOLERANCE = 5 * 60; // seconds

    /**
     * Throws SecurityException if the message is not to be trusted. header gives the value of a header, or null;
     * body is the bytes as they came, before any parsing.
     */
    public static void verify(UnaryOperator<String> header, byte[] body) throws GeneralSecurityException {
        String id = header.apply("webhook-id"), timestamp = header.apply("webhook-timestamp");
        String signatures = header.apply("webhook-signature");
        if (id == null || timestamp == null || signatures == null) throw new SecurityException("a header is missing");
        if (!timestamp.matches("[0-9]{1,12}")) throw new SecurityException("the timestamp is no number");
        long now = System.currentTimeMillis() / 1000, sentAt = Long.parseLong(timestamp);
        if (sentAt < now - TOLERANCE || sentAt > now + TOLERANCE)
            throw new SecurityException("the timestamp is too far from now");

        String secret = System.getenv("SHOPERY_WEBHOOK_SECRET");
        if (secret == null || secret.isEmpty()) throw new SecurityException("there is no secret");
        byte[] key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256")); // an empty key is refused
        mac.update((id + "." + timestamp + ".").getBytes(UTF_8));
        byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(UTF_8);
        // While a secret is rotated there are several signatures: one of them must be ours.
        for (String given : signatures.split(" ")) {
            if (MessageDigest.isEqual(given.getBytes(UTF_8), expected)) return; // takes constant time
        }
        throw new SecurityException("no signature is of this secret");
    }
}
