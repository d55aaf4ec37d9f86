// Verifies a webhook of Shopery that is signed with Ed25519. Java 17 or later, no libraries.
import static java.nio.charset.StandardCharsets.UTF_8;

import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.SignatureException;
import java.security.spec.X509EncodedKeySpec;
import java.util.Base64;
import java.util.HexFormat;
import java.util.function.UnaryOperator;

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

        String text = System.getenv("SHOPERY_WEBHOOK_PUBLIC_KEY");
        byte[] raw = Base64.getDecoder().decode(text.replaceFirst("^whpk_", ""));
        // What X.509 puts before the 32 bytes of such a key.
        String encoded = "302a300506032b6570032100" + HexFormat.of().formatHex(raw);
        X509EncodedKeySpec spec = new X509EncodedKeySpec(HexFormat.of().parseHex(encoded));
        PublicKey key = KeyFactory.getInstance("Ed25519").generatePublic(spec);
        // While a key is rotated there are several signatures: one of them must be of ours.
        for (String given : signatures.split(" ")) {
            if (!given.startsWith("v1a,")) continue;
            Signature signature = Signature.getInstance("Ed25519");
            signature.initVerify(key);
            signature.update((id + "." + timestamp + ".").getBytes(UTF_8));
            signature.update(body);
            try {
                byte[] value = Base64.getDecoder().decode(given.substring("v1a,".length()));
                if (value.length == 64 && signature.verify(value)) return;
            } catch (IllegalArgumentException | SignatureException none) {} // no base64, or no signature of any key
        }
        throw new SecurityException("no signature is of this key");
    }
}
