#!/usr/bin/env bash
# Compiles :core and its tests with kotlinc, runs JUnit. Usage: build_core.sh OUT_DIR
# Where a tool is missing: one line and exit code 0, or 1 where ANDROID_TESTS=required.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
demo=$(dirname "$here")
out=$1
java_jars=${JAVA_JARS:-/usr/share/java}

missing() {
    echo "test-android: skipped, $1"
    [ "${ANDROID_TESTS:-}" = required ] && exit 1
    exit 0
}
command -v java >/dev/null || missing "no java (Debian: openjdk-17-jdk-headless)"
command -v npm >/dev/null || missing "no npm (Debian: npm)"
[ -d "$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")/lib" ] || missing "no JDK"
for jar in junit4 hamcrest-core gson; do
    [ -f "$java_jars/$jar.jar" ] || missing "no $jar.jar (Debian: junit4, libgoogle-gson-java)"
done
kotlin=$here/node_modules/kotlin-compiler
if [ ! -d "$kotlin" ] || [ "$here/package-lock.json" -nt "$here/node_modules/.package-lock.json" ]; then
    (cd "$here" && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --silent) ||
        missing "npm could not fetch kotlin-compiler and onnxruntime-node"
fi

# Release 8 of the JDK's interface: what Android 8.0 has as well, but for javax and java.awt.
flags=(-jvm-target 1.8 -Xjdk-release=1.8 -language-version 2.3 -api-version 2.3 -Werror -no-stdlib -no-reflect)
stdlib=$kotlin/lib/kotlin-stdlib.jar
libraries=$stdlib:$java_jars/gson.jar
tests=$libraries:$java_jars/junit4.jar:$java_jars/hamcrest-core.jar
compile() { # classpath, target, sources
    JAVA_OPTS="-Xmx1g" bash "$kotlin/bin/kotlinc" "${flags[@]}" -classpath "$1" -d "$2" "${@:3}"
}
mkdir -p "$out"
newer() { [ ! -e "$1" ] || [ -n "$(find "${@:2}" -newer "$1" -print -quit)" ]; }
if newer "$out/core.jar" "$demo/core/src/main" "$here"/build_core.sh; then
    compile "$libraries" "$out/core.jar" "$demo/core/src/main/kotlin"
fi
if newer "$out/core-tests.jar" "$demo/core/src/test" "$out/core.jar"; then
    flags+=("-Xfriend-paths=$out/core.jar") # tests see what is internal, as under Gradle
    compile "$tests:$out/core.jar" "$out/core-tests.jar" "$demo/core/src/test/kotlin"
fi
echo "$out/core.jar:$out/core-tests.jar:$tests" >"$out/classpath"
suites=$(cd "$demo/core/src/test/kotlin" && find . -name '*Test.kt' | sort | sed 's|^\./||; s|\.kt$||; s|/|.|g')
# shellcheck disable=SC2086
java -Xmx64m -Dgenedge.root="$(dirname "$demo")" -cp "$(cat "$out/classpath")" org.junit.runner.JUnitCore $suites
