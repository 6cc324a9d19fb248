package genedge.core

import java.io.Closeable
import java.io.DataInputStream
import java.io.EOFException
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.CRC32
import java.util.zip.CheckedInputStream
import java.util.zip.ZipEntry
import java.util.zip.ZipFile

private const val LONGEST_HEADER = 1 shl 16
private const val LARGEST_TABLE = 1L shl 24
private const val INPUT = "input:"

/**
 * golden.npz: prompts, seeds, and what the float generator drew for them; for int8 also what the
 * simulation of the int8 graph drew. A zip of .npy files; pictures are read one after the other, so
 * that all of them never have to fit the heap.
 */
class Golden private constructor(private val zip: ZipFile, private val where: String) : Closeable {
    val prompts: List<String> = read("prompts") { it.texts() }
    val seeds: LongArray = read("seeds") { it.longs() }

    /** Hashes of what the float generator was fed, one for each prompt, by input; empty in older files. */
    val inputs: Map<String, List<String>> = zip.entries().toList()
        .filter { it.name.startsWith(INPUT) && it.name.endsWith(".npy") }
        .associate { entry ->
            // "input:source:name" where source says what fills it
            val name = entry.name.removeSuffix(".npy")
            name.removePrefix(INPUT).substringAfter(':') to read(name) { it.texts() }
        }

    init {
        val sizes = inputs.values.map { it.size } + seeds.size
        if (prompts.isEmpty() || sizes.any { it != prompts.size }) throw damaged("prompts, seeds and inputs differ")
    }

    /** (picture, simulated or null) of each prompt, in order. */
    fun pictures(): Sequence<Pair<Picture, Picture?>> = sequence {
        open("pictures").use { pictures ->
            (if (entry("simulated") == null) null else open("simulated")).use { simulated ->
                val some = listOfNotNull(pictures, simulated)
                if (some.any { it.shape.size != 4 || it.shape[0] != prompts.size || it.shape[3] != 4 }) {
                    throw damaged("pictures have the shape ${pictures.shape}")
                }
                repeat(prompts.size) { yield(guarded { next(pictures) to simulated?.let { next(it) } }) }
                guarded { some.forEach { it.finish() } }
            }
        }
    }

    private fun next(array: Npy): Picture {
        if (array.descr !in listOf("|u1", "u1")) throw damaged("pictures are ${array.descr}")
        val (height, width) = array.shape[1] to array.shape[2]
        if (height.toLong() * width > LARGEST_TABLE) throw damaged("pictures are too large")
        val rgba = ByteArray(4 * height * width)
        array.stream.readFully(rgba)
        return Picture(width, height, rgba)
    }

    private fun entry(name: String): ZipEntry? = zip.getEntry("$name.npy")

    private fun open(name: String): Npy = guarded {
        val entry = entry(name) ?: throw damaged("it holds no $name")
        Npy(zip.getInputStream(entry), entry.crc, ::damaged)
    }

    private fun <T> read(name: String, get: (Npy) -> T): T = open(name).use { guarded { get(it) } }

    private fun <T> guarded(get: () -> T): T = try {
        get()
    } catch (problem: EOFException) {
        throw damaged("it is cut short")
    } catch (problem: IOException) {
        throw damaged(problem.message ?: "it can not be read")
    } catch (problem: IllegalArgumentException) {
        throw damaged(problem.message ?: "it can not be read")
    }

    private fun damaged(why: String) = DamagedArtifact("$where is damaged ($why); copy it again")

    override fun close() = zip.close()

    companion object {
        /** Opens [file]. Throws [DamagedArtifact] where it is missing or damaged. */
        fun open(file: File): Golden {
            if (!file.isFile) {
                throw DamagedArtifact("$file is missing; verify needs it, drawing does not")
            }
            val zip = try {
                ZipFile(file)
            } catch (problem: IOException) {
                throw DamagedArtifact("$file is damaged (${problem.message}); copy it again", problem)
            }
            try {
                return Golden(zip, file.toString())
            } catch (problem: Throwable) {
                zip.close()
                throw problem
            }
        }
    }
}

/** One .npy file: format 1 to 3, C order; the numbers follow in [stream]. */
private class Npy(
    source: InputStream,
    private val crc: Long,
    private val damaged: (String) -> DamagedArtifact,
) : Closeable {
    private val checked = CheckedInputStream(source.buffered(BLOCK), CRC32())
    val stream = DataInputStream(checked)
    val descr: String
    val shape: List<Int>

    init {
        val magic = ByteArray(8)
        stream.readFully(magic)
        if (String(magic, 0, 6, Charsets.ISO_8859_1) != "\u0093NUMPY" || magic[6] !in 1..3) {
            throw damaged("an array has no .npy header")
        }
        val size = if (magic[6] < 2) little(2) else little(4)
        if (size !in 0..LONGEST_HEADER) throw damaged("an array's header is too long")
        val bytes = ByteArray(size)
        stream.readFully(bytes)
        val header = String(bytes, Charsets.UTF_8)
        fun find(pattern: String) = Regex(pattern).find(header)?.groupValues?.get(1)
        descr = find("'descr': *'([^']*)'") ?: throw damaged("an array is of no plain type")
        if (find("'fortran_order': *(True|False)") != "False") throw damaged("an array is not in C order")
        val numbers = find("'shape': *\\(([0-9, ]*)\\)") ?: throw damaged("an array has no shape")
        shape = numbers.split(',').map { it.trim(' ') }.filter { it.isNotEmpty() }
            .map { it.toIntOrNull() ?: throw damaged("an array has $it rows") }
    }

    /** After the last number. ZipFile itself does not compare the checksum. */
    fun finish() {
        if (stream.read() >= 0) throw damaged("something follows an array")
        if (crc != -1L && checked.checksum.value != crc) throw damaged("a checksum differs")
    }

    private fun little(bytes: Int): Int {
        var value = 0
        for (i in 0 until bytes) value = value or (stream.readUnsignedByte() shl 8 * i)
        return value
    }

    private fun table(itemSize: Int): ByteBuffer {
        val count = shape.singleOrNull() ?: throw damaged("a list has the shape $shape")
        if (count.toLong() * itemSize > LARGEST_TABLE) throw damaged("a list is too long")
        val bytes = ByteArray(count * itemSize)
        stream.readFully(bytes)
        finish()
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    }

    fun longs(): LongArray {
        if (descr != "<i8") throw damaged("seeds are $descr")
        val table = table(8)
        return LongArray(shape[0]) { table.getLong() }
    }

    /** Texts of up to n characters, UTF-32, filled up with NUL. */
    fun texts(): List<String> {
        val n = Regex("<U([0-9]{1,6})").matchEntire(descr)?.groupValues?.get(1)?.toInt()
            ?: throw damaged("prompts are $descr")
        val table = table(4 * n)
        return List(shape[0]) {
            val text = StringBuilder()
            repeat(n) {
                val point = table.getInt()
                if (point != 0) text.appendCodePoint(point)
            }
            text.toString()
        }
    }

    override fun close() = stream.close()
}
