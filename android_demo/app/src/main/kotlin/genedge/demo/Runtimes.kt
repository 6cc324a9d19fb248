package genedge.demo

import genedge.core.Runtime

/** What the application gives its screen: a runtime for each target that it was built with. */
interface Runtimes {
    val runtimes: Map<String, Runtime>
}
