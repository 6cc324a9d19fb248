package example

import genedge.core.Runtime
import genedge.core.about
import genedge.core.install
import genedge.core.load
import genedge.core.writePng
import java.io.File
import java.io.InputStream

/** Copies the artifact out of the app's assets once, draws one picture, writes it as PNG. */
fun drawOne(home: File, asset: (String) -> InputStream, runtime: Runtime, prompt: String, png: File) {
    val artifact = install(home, asset) // hashed on its way; whole or absent
    load(artifact, runtime, threads = 2).use { pipeline ->
        val drawn = pipeline.draw(pipeline.prepare(prompt, seed = 1))
        png.outputStream().use { out ->
            writePng(out, drawn.picture, null, about(drawn.feed, artifact.manifest))
        }
    }
}
