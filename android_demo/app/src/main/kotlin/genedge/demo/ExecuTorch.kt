package genedge.demo

import genedge.core.Component
import genedge.core.Runner
import genedge.core.Runtime
import genedge.core.Tensor
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import java.io.File
import org.pytorch.executorch.Tensor as NativeTensor

/** ExecuTorch with XNNPACK. The file is mapped: its pages come in when they are used, and may go. */
object ExecuTorch : Runtime {
    override fun load(file: File, component: Component, threads: Int): Runner {
        val module = Module.load(file.path, Module.LOAD_MODE_MMAP, threads)
        try {
            // A damaged or foreign file is found here, not at the first picture. Older versions return a
            // number, newer ones throw and return nothing.
            val told: Any = module.loadMethod("forward")
            if (told is Int && told != 0) throw IllegalStateException("error $told of ExecuTorch")
        } catch (problem: Throwable) {
            module.destroy()
            throw problem
        }
        return ExecuTorchRunner(module, component)
    }
}

private class ExecuTorchRunner(private val module: Module, private val component: Component) : Runner {
    /** A .pte takes and gives tensors by place: the order of the component's names. */
    override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val given = component.inputs.map { EValue.from(tensorOf(inputs.getValue(it))) }
        val results = module.forward(*given.toTypedArray())
        return component.outputs.withIndex().associate { (i, name) ->
            val value = results[i].toTensor()
            val shape = value.shape()
            name to Tensor.Floats(value.dataAsFloatArray, IntArray(shape.size) { shape[it].toInt() })
        }
    }

    private fun tensorOf(tensor: Tensor): NativeTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        return when (tensor) {
            is Tensor.Floats -> NativeTensor.fromBlob(tensor.values, shape)
            is Tensor.Longs -> NativeTensor.fromBlob(tensor.values, shape)
        }
    }

    override fun close() = module.destroy()
}
