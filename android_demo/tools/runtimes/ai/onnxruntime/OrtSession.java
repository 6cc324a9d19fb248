package ai.onnxruntime;

import java.util.Map;
import java.util.Optional;

/** A stub: see ../../README.md. */
public class OrtSession implements AutoCloseable {
    OrtSession() {}

    public native Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException;

    @Override
    public native void close() throws OrtException;

    public static class SessionOptions implements AutoCloseable {
        public SessionOptions() {}

        public native void setIntraOpNumThreads(int numThreads) throws OrtException;

        public native void setInterOpNumThreads(int numThreads) throws OrtException;

        @Override
        public native void close();
    }

    public static class Result implements AutoCloseable {
        Result() {}

        public native OnnxValue get(int index);

        public native Optional<OnnxValue> get(String key);

        @Override
        public native void close();
    }
}
