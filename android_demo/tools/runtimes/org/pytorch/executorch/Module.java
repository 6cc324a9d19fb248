package org.pytorch.executorch;

/** A stub: see README.md. */
public class Module {
    public static final int LOAD_MODE_FILE = 0;
    public static final int LOAD_MODE_MMAP = 1;

    private Module() {}

    public static native Module load(String modelPath, int loadMode, int numThreads);

    public native EValue[] forward(EValue... inputs);

    public native int loadMethod(String methodName);

    public native void destroy();
}
