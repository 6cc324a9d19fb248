package genedge.core

/** The limits of docs/verify.md that a phone holds an artifact to, by precision. */
class Limits(
    val psnr: Double,
    val ssim: Double,
    val flat: Double,
    val signed: Double,
    val lead: Double? = null,
)

private val limitsOf = mapOf(
    "fp32" to Limits(60.0, 0.999, 0.999, 0.05),
    "fp16" to Limits(50.0, 0.999, 0.99, 0.1),
    "int8" to Limits(32.0, 0.95, 0.99, 0.3, lead = 3.0),
)

/** One metric: its value as text, its limit ("" where there is none), its verdict, and the reason. */
class Row(
    val metric: String,
    val value: String,
    val number: Double,
    val limit: String,
    val passed: Boolean,
    val note: String = "",
)

/** What [verify] found; it passed where every row did. */
class Report(val rows: List<Row>) {
    val passed: Boolean get() = rows.all { it.passed }
}

/**
 * Draws the artifact's golden prompts and compares with the float generator's pictures, as genedge
 * verify does: all of them, as its limits are about the means over all. What only a desktop can look at is
 * left to it: numbers stored in the files (`stored_int8`), float64 (`--reference`), other prompts and seeds
 * as reasons. Throws [DamagedArtifact], [RuntimeFailed], [Cancelled].
 */
fun verify(
    pipeline: Pipeline,
    stop: Stop = { false },
    progress: Progress = { _, _, _ -> },
): Report {
    val manifest = pipeline.artifact.manifest
    checkFiles(pipeline.artifact, golden = true, stop = stop)
    val stored = manifest.golden
        ?: throw DamagedArtifact("${manifest.name} has no golden pictures; export it again")
    val totals = Totals()
    Golden.open(pipeline.artifact.file(stored)).use { golden ->
        val count = golden.prompts.size
        for ((i, pair) in golden.pictures().withIndex()) {
            if (stop()) throw Cancelled()
            val feed = pipeline.prepare(golden.prompts[i], golden.seeds[i])
            for ((name, hashes) in golden.inputs) {
                if (feed.inputs[name]?.let { hashOf(it) } != hashes[i]) totals.other(name)
            }
            val drawn = pipeline.draw(feed)
            val picture = pair.first
            if (drawn.picture.width != picture.width || drawn.picture.height != picture.height) {
                throw DamagedArtifact("golden pictures are ${picture.width} × ${picture.height}; export it again")
            }
            totals.add(drawn, picture, pair.second)
            progress("verify", i + 1L, count.toLong())
        }
    }
    return Report(judge(totals, manifest))
}

private class Totals {
    val psnr = ArrayList<Double>()
    val ssim = ArrayList<Double>()
    val times = ArrayList<Double>()
    val toSimulation = ArrayList<Double>()
    val simulationToFloat = ArrayList<Double>()
    val signed = DoubleArray(4)
    val odd = LinkedHashMap<String, ArrayList<String>>() // by reason: prompts
    val worst = Worst()
    val others = LinkedHashMap<String, Int>() // by input: for how many prompts it is not the float generator's
    var maxError = 0
    var kept = 0L
    var flat = 0L

    fun other(input: String) {
        others[input] = (others[input] ?: 0) + 1
    }

    fun add(drawn: Drawn, truth: Picture, simulated: Picture?) {
        val mine = drawn.picture
        times += drawn.milliseconds
        psnr += picturePsnr(mine, truth)
        worst.add(mine, truth, psnr.last())
        ssim += pictureSsim(mine, truth)
        maxError = maxOf(maxError, maxError(mine, truth))
        signedError(mine, truth).forEachIndexed { c, v -> signed[c] += v }
        val (near, all) = flatKept(mine, truth)
        kept += near
        flat += all
        if (simulated != null) {
            toSimulation += picturePsnr(mine, simulated)
            simulationToFloat += picturePsnr(simulated, truth)
        }
        val why = suspicion(mine)
        if (why != null && suspicion(truth) == null) odd.getOrPut(why) { ArrayList() } += drawn.feed.prompt
    }
}

private fun judge(found: Totals, manifest: Manifest): List<Row> {
    val rows = ArrayList<Row>()
    val limits = limitsOf.getValue(manifest.precision)
    val why by lazy { reasons(found.worst.pairs).joinToString("; ") } // looked for where a limit is missed

    fun add(
        metric: String, value: Double, limit: Double?, atLeast: Boolean, unit: String, digits: Int, note: () -> String = { "" },
    ) {
        val sign = if (atLeast) "≥" else "≤"
        val passed = limit == null || if (atLeast) value >= limit else value <= limit
        // String.format follows the phone's language; a verdict is read by people who compare it.
        val shown = String.format(java.util.Locale.ROOT, "%.${digits}f", value) + unit
        val limitText = if (limit == null) "" else "$sign ${limit.toBigDecimal().stripTrailingZeros().toPlainString()}$unit"
        rows += Row(metric, shown, value, limitText, passed, if (passed) "" else note())
    }

    add("psnr_db", found.psnr.average(), limits.psnr, true, " dB", 2) { why }
    add("psnr_p1_db", percentile(found.psnr, 0.01), null, true, " dB", 2)
    add("psnr_worst_db", found.psnr.min(), null, true, " dB", 2)
    add("ssim", found.ssim.average(), limits.ssim, true, "", 4) { why }
    add("max_error", found.maxError.toDouble(), null, false, "", 0)
    val share = if (found.flat == 0L) 1.0 else found.kept.toDouble() / found.flat
    add("flat_kept", share, limits.flat, true, "", 4)
    val signed = found.signed.maxOf { Math.abs(it / found.psnr.size) }
    add("signed_error", signed, limits.signed, false, "", 2)
    if (found.toSimulation.isNotEmpty()) {
        val near = found.toSimulation.average()
        val far = found.simulationToFloat.average()
        add("to_simulation_db", near, null, true, " dB", 2)
        add("simulation_to_float_db", far, null, true, " dB", 2)
        add("lead_db", near - far, limits.lead, true, " dB", 2)
    }
    add("bytes", manifest.bytes.toDouble(), null, false, "", 0)
    add("latency_ms", found.times.sorted()[found.times.size / 2], null, false, " ms", 2)
    if (found.odd.isNotEmpty()) {
        val count = found.odd.values.sumOf { it.size }
        val value = "$count of ${found.psnr.size} pictures"
        rows += Row("suspicious", value, count.toDouble(), "none", false, examples(found.odd))
    }
    for ((name, count) in found.others) {
        val what = whatDiffers[manifest.signature.inputs[name]?.source] ?: "other values"
        val reason = "input $name differs for $count of ${found.psnr.size} prompts: $what"
        rows += Row("inputs", reason, count.toDouble(), "equal to the float generator's", false)
    }
    cpuProblem(manifest)?.let { rows += Row("cpu_profile", it, 1.0, "portable", false) }
    return rows
}

private val whatDiffers = mapOf(
    "prompt" to "another tokenizer",
    "noise" to "another seed or another noise generator",
    "meaning" to "another seed: its choice of meaning",
    "style" to "another seed: its style",
)

private const val EXAMPLES = 3 // reasons that are named

/** What is wrong with pictures: each reason once, with the first prompt that it holds for. */
private fun examples(odd: Map<String, List<String>>): String {
    val parts = odd.map { (reason, prompts) ->
        "$reason (${prompts[0]}" + if (prompts.size > 1) " and ${prompts.size - 1} more)" else ")"
    }
    val more = parts.size - EXAMPLES
    return parts.take(EXAMPLES).joinToString("; ") + if (more > 0) "; $more more reason(s)" else ""
}

/** The value below which this share of [values] lies, between the two nearest. */
private fun percentile(values: List<Double>, share: Double): Double {
    val sorted = values.sorted()
    val at = share * (sorted.size - 1)
    val low = at.toInt()
    val high = minOf(low + 1, sorted.size - 1)
    return sorted[low] + (at - low) * (sorted[high] - sorted[low])
}
