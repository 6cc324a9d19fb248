package ai.onnxruntime;

/** A stub: see ../../README.md. */
public final class OrtEnvironment implements AutoCloseable {
    OrtEnvironment() {}

    public static native OrtEnvironment getEnvironment();

    public native OrtSession createSession(String modelPath, OrtSession.SessionOptions options)
            throws OrtException;

    public native OrtSession createSession(byte[] modelArray, OrtSession.SessionOptions options)
            throws OrtException;

    @Override
    public native void close();
}
