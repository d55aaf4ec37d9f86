// Verifies a webhook of Shopery. .NET 6 or later, no packages.
using System;
using System.Linq;
using System.Security.Cryptography;
using System.Text;

public static class ShoperyWebhook
{
    const long Tolerance = 5 * 60; // seconds

    // header gives the value of a header, or null; body is the bytes as they came, before any parsing.
    // Throws a CryptographicException if the message is not to be trusted.
    public static void Verify(Func<string, string?> header, byte[] body)
    {
        string? id = header("webhook-id"), timestamp = header("webhook-timestamp");
        var signatures = header("webhook-signature");
        if (string.IsNullOrEmpty(id) || signatures is null || !long.TryParse(timestamp, out var sentAt))
            throw new CryptographicException("a header is missing, or the timestamp is no number");
        var now = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
        if (sentAt < now - Tolerance || sentAt > now + Tolerance)
            throw new CryptographicException("the timestamp is too far from now");

        var secret = Environment.GetEnvironmentVariable("SHOPERY_WEBHOOK_SECRET") ?? "";
        var key = Convert.FromBase64String(secret.StartsWith("whsec_") ? secret["whsec_".Length..] : secret);
        if (key.Length == 0) throw new CryptographicException("there is no secret");
        using var hmac = new HMACSHA256(key);
        var signed = Encoding.UTF8.GetBytes($"{id}.{timestamp}.").Concat(body).ToArray();
        var expected = Encoding.UTF8.GetBytes("v1," + Convert.ToBase64String(hmac.ComputeHash(signed)));
        // While a secret is rotated there are several signatures: one of them must be ours.
        var isOurs = signatures.Split(' ').Any(given =>
            CryptographicOperations.FixedTimeEquals(Encoding.UTF8.GetBytes(given), expected));
        if (!isOurs) throw new CryptographicException("no signature is of this secret");
    }
}
