package genedge.demo

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import genedge.core.Component
import genedge.core.Runner
import genedge.core.Runtime
import genedge.core.Tensor
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** ONNX Runtime's CPU kernels: the same that verify ran on the desktop. */
object OnnxRuntime : Runtime {
    override fun load(file: File, component: Component, threads: Int): Runner {
        val environment = OrtEnvironment.getEnvironment()
        val session = OrtSession.SessionOptions().use { options ->
            options.setIntraOpNumThreads(threads)
            options.setInterOpNumThreads(1)
            environment.createSession(file.path, options) // a path: the file is not read into the heap
        }
        return OnnxRunner(environment, session, component)
    }
}

private class OnnxRunner(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val component: Component,
) : Runner {
    override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val given = LinkedHashMap<String, OnnxTensor>()
        try {
            for ((name, tensor) in inputs) given[component.fileName(name)] = tensorOf(tensor)
            session.run(given).use { result ->
                return component.outputs.associateWith { name ->
                    val value = result.get(component.fileName(name)).get() as OnnxTensor
                    val floats = value.floatBuffer
                    val shape = value.info.shape
                    Tensor.Floats(
                        FloatArray(floats.remaining()).also { floats.get(it) },
                        IntArray(shape.size) { shape[it].toInt() },
                    )
                }
            }
        } finally {
            given.values.forEach { it.close() }
        }
    }

    private fun tensorOf(tensor: Tensor): OnnxTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return when (tensor) {
            is Tensor.Floats -> OnnxTensor.createTensor(environment, FloatBuffer.wrap(tensor.values), shape)
            is Tensor.Longs -> OnnxTensor.createTensor(environment, LongBuffer.wrap(tensor.values), shape)
        }
    }

    override fun close() = session.close()
}
