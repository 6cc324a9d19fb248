package genedge.core

import java.io.ByteArrayOutputStream
import java.io.OutputStream
import java.util.zip.CRC32
import java.util.zip.Deflater
import java.util.zip.DeflaterOutputStream

private const val GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

/** The mark for generated pictures: XMP, IPTC DigitalSourceType trainedAlgorithmicMedia. */
internal val xmp: String =
    "<?xpacket begin=\"\ufeff\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>" +
        "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">" +
        "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">" +
        "<rdf:Description rdf:about=\"\" " +
        "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" " +
        "Iptc4xmpExt:DigitalSourceType=\"$GENERATED\"/>" +
        "</rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>"

/** What a saved picture says of itself: the same keys that genedge generate writes. */
fun about(feed: Feed, manifest: Manifest): Map<String, String> = linkedMapOf(
    "Software" to "genedge",
    "prompt" to feed.prompt,
    "seed" to feed.seed.toString(),
    "style" to feed.style,
    "model" to manifest.name,
    "artifact" to manifest.hash,
)

/**
 * A PNG with [about] as international text (iTXt) and the mark for generated pictures: RGBA where
 * [ground] is null, else RGB over it. Keys are of 1 to 79 Latin letters. Does not close [out].
 */
fun writePng(out: OutputStream, picture: Picture, ground: Ground?, about: Map<String, String>) {
    out.write(byteArrayOf(0x89.toByte(), 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A))
    val header = ByteArrayOutputStream()
    header.write(bigEndian(picture.width))
    header.write(bigEndian(picture.height))
    header.write(byteArrayOf(8, if (ground == null) 6 else 2, 0, 0, 0))
    chunk(out, "IHDR", header.toByteArray())
    for ((key, value) in about + ("XML:com.adobe.xmp" to xmp)) {
        require(key.length in 1..79 && key.all { it in ' '..'~' }) { "PNG key $key" }
        val text = ByteArrayOutputStream()
        text.write(key.toByteArray(Charsets.ISO_8859_1))
        text.write(ByteArray(5)) // end of key, stored plain, no language, no translated key
        text.write(value.toByteArray(Charsets.UTF_8))
        chunk(out, "iTXt", text.toByteArray())
    }
    chunk(out, "IDAT", compressed(picture, ground))
    chunk(out, "IEND", ByteArray(0))
}

private fun compressed(picture: Picture, ground: Ground?): ByteArray {
    val levels = ground?.let { over(picture, it) }
    val row = picture.width * if (levels == null) 4 else 3
    val bytes = if (levels == null) picture.rgba else ByteArray(levels.size) { levels[it].toByte() }
    val out = ByteArrayOutputStream()
    val deflater = Deflater(Deflater.BEST_COMPRESSION)
    DeflaterOutputStream(out, deflater).use { stream ->
        for (y in 0 until picture.height) {
            stream.write(0) // filter none: flat art compresses best so
            stream.write(bytes, y * row, row)
        }
    }
    deflater.end()
    return out.toByteArray()
}

private fun bigEndian(n: Int) =
    byteArrayOf((n ushr 24).toByte(), (n ushr 16).toByte(), (n ushr 8).toByte(), n.toByte())

private fun chunk(out: OutputStream, type: String, data: ByteArray) {
    val name = type.toByteArray(Charsets.US_ASCII)
    val crc = CRC32()
    crc.update(name)
    crc.update(data)
    out.write(bigEndian(data.size))
    out.write(name)
    out.write(data)
    out.write(bigEndian(crc.value.toInt()))
}
