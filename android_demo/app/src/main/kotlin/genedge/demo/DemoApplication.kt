package genedge.demo

import android.app.Application
import genedge.core.Runtime

/** A third runtime is one more line here. */
class DemoApplication : Application(), Runtimes {
    override val runtimes: Map<String, Runtime> =
        mapOf("executorch" to ExecuTorch, "onnx" to OnnxRuntime)
}
