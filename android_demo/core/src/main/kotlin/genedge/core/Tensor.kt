package genedge.core

/** Numbers in C order with a static shape: what a runtime takes and gives. */
sealed class Tensor {
    abstract val shape: IntArray
    abstract val dtype: String
    abstract val size: Int

    class Floats(val values: FloatArray, override val shape: IntArray) : Tensor() {
        override val dtype get() = "float32"
        override val size get() = values.size
    }

    class Longs(val values: LongArray, override val shape: IntArray) : Tensor() {
        override val dtype get() = "int64"
        override val size get() = values.size
    }
}

/**
 * One tensor of a signature: dtype name, static shape, the range of its values, and what fills it:
 * "prompt" (token ids), "noise", "meaning" or "style" (one-hot); "" for an output.
 */
class TensorSpec(
    val dtype: String,
    val shape: IntArray,
    val low: Double,
    val high: Double,
    val source: String = "",
) {
    val size: Int get() = shape.fold(1) { product, n -> product * n }

    /** [value], or [BadRequest] where dtype or shape is another: native code may not look. */
    fun check(name: String, value: Tensor): Tensor {
        val fits = value.dtype == dtype && value.shape.contentEquals(shape) && value.size == size
        if (!fits) {
            throw BadRequest(
                "input $name: expected $dtype ${shape.toList()}, " +
                    "got ${value.dtype} ${value.shape.toList()}"
            )
        }
        return value
    }
}

/**
 * Named inputs, the picture that comes out, and how a prompt fills them.
 *
 * layout: "rgba-premultiplied", "rgba", "rgb" or "gray". styles: names in the order of the style input.
 * length and pad: ids of a prompt, and the id that fills the rest; null where there is no prompt.
 */
class Signature(
    val inputs: Map<String, TensorSpec>,
    val outputName: String,
    val output: TensorSpec,
    val layout: String,
    val styles: List<String>,
    val length: Int?,
    val pad: Int?,
) {
    val height: Int get() = output.shape[2]
    val width: Int get() = output.shape[3]
}
