package genedge.core

import com.google.gson.Gson
import com.google.gson.JsonArray
import com.google.gson.JsonElement
import com.google.gson.JsonObject
import com.google.gson.TypeAdapter
import com.google.gson.stream.JsonReader
import com.google.gson.stream.JsonToken
import java.io.Reader

/** What a reader of JSON finds wrong; [readManifest] and [readTokenizer] name the file. */
internal class Malformed(message: String) : Exception(message)

private val elements: TypeAdapter<JsonElement> = Gson().getAdapter(JsonElement::class.java)

/** One JSON object, strictly read: nothing may follow it. Throws [Malformed]. */
internal fun readObject(reader: Reader): JsonObject {
    val json = JsonReader(reader) // Gson's JsonParser would accept what is no JSON
    try {
        val element = elements.read(json)
        if (json.peek() != JsonToken.END_DOCUMENT) throw Malformed("something follows the JSON")
        return element as? JsonObject ?: throw Malformed("it is no JSON object")
    } catch (problem: Exception) {
        // Gson throws of four kinds, with advice for programmers in the message.
        throw problem as? Malformed ?: Malformed("it is no JSON, at or after ${json.path}")
    }
}

internal fun JsonObject.member(key: String): JsonElement? = get(key)?.takeUnless { it.isJsonNull }

private fun JsonObject.needed(key: String) = member(key) ?: throw Malformed("$key is missing")

internal fun JsonObject.text(key: String): String = needed(key).asText(key)

internal fun JsonObject.whole(key: String): Long = needed(key).asWhole(key)

internal fun JsonObject.row(key: String): JsonObject =
    needed(key) as? JsonObject ?: throw Malformed("$key is no object")

internal fun JsonObject.list(key: String): List<JsonElement> =
    (needed(key) as? JsonArray)?.toList() ?: throw Malformed("$key is no list")

internal fun JsonObject.texts(key: String): List<String> = list(key).map { it.asText(key) }

internal fun JsonElement.asText(where: String): String {
    if (!isJsonPrimitive || !asJsonPrimitive.isString) throw Malformed("$where is no text")
    return asString
}

internal fun JsonElement.asWhole(where: String): Long {
    val digits = if (isJsonPrimitive && asJsonPrimitive.isNumber) asString else ""
    return digits.toLongOrNull() ?: throw Malformed("$where is no whole number")
}

internal fun JsonElement.asNumber(where: String): Double {
    val digits = if (isJsonPrimitive && asJsonPrimitive.isNumber) asString else ""
    val value = digits.toDoubleOrNull() ?: throw Malformed("$where is no number")
    if (value.isNaN() || value.isInfinite()) throw Malformed("$where is not finite")
    return value
}
