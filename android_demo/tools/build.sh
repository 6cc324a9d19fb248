#!/usr/bin/env bash
# Compiles the Kotlin of this project without Gradle and without the Android SDK.
#   build.sh check      one line and exit code 3 where a program is missing
#   build.sh core OUT   :core and its tests into OUT/core.jar; the class path into OUT/classpath
#   build.sh resources OUT  :app's manifest and resources into OUT/app.apk, and R.java, with Debian's aapt
#   build.sh app OUT [FOLDER]  :app, all of it, against OUT/core.jar, R.java, Android's signatures (see
#                       signatures.py) and the stubs of the runtimes' AARs (see runtimes/); FOLDER: other sources
# What is up to date is not compiled again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
demo=$(dirname "$here")
jars=${JAVA_JARS:-/usr/share/java}
kotlin=$here/node_modules/kotlin-compiler

missing() {
    echo "android: $1"
    exit 3
}
command -v java >/dev/null || missing "no java; install a JDK (Debian: default-jdk-headless)"
for jar in junit4 hamcrest-core gson; do
    [ -f "$jars/$jar.jar" ] || missing "no $jars/$jar.jar; install it (Debian: junit4, libgoogle-gson-java)"
done
[ -d "$kotlin" ] || missing "no Kotlin compiler; run make android-tools (needs npm)"
[ "$1" = check ] && exit 0

out=$2
mkdir -p "$out"
stdlib=$kotlin/lib/kotlin-stdlib.jar
tests=$stdlib:$jars/gson.jar:$jars/junit4.jar:$jars/hamcrest-core.jar
newer() { [ ! -e "$1" ] || [ -n "$(find "${@:2}" -newer "$1" -print -quit)" ]; }
compile() { # class path, target, other arguments
    touch "$2.began" # the age of what comes out: a file that changes meanwhile is compiled next time
    # The compiler runs for seconds: the first stage of the JIT halves what it takes.
    JAVA_OPTS="-Xmx1g -XX:TieredStopAtLevel=1 -XX:+UseSerialGC" bash "$kotlin/bin/kotlinc" \
        -jvm-target 1.8 -Werror -no-stdlib -no-reflect -classpath "$1" -d "$2.partial.jar" "${@:3}"
    touch -r "$2.began" "$2.partial.jar"
    mv "$2.partial.jar" "$2"
}
case $1 in
core)
    # Release 8 of the JDK's interface: what Android 8.0 has as well, but for javax and java.awt.
    if newer "$out/core.jar" "$demo/core/src" "$0"; then
        compile "$tests" "$out/core.jar" -Xjdk-release=1.8 \
            "$demo/core/src/main/kotlin" "$demo/core/src/test/kotlin"
    fi
    echo "$out/core.jar:$tests" >"$out/classpath"
    ;;
resources)
    command -v aapt >/dev/null || missing "no aapt; install it (Debian: aapt, android-framework-res)"
    framework=${FRAMEWORK_RES:-/usr/share/android-framework-res/framework-res.apk}
    [ -f "$framework" ] || missing "no $framework; install it (Debian: android-framework-res)"
    main=$demo/app/src/main
    mkdir -p "$out/manifest" "$out/r"
    # What the Android plugin does: the package comes from build.gradle.kts, removed nodes go.
    sed -z 's/<uses-permission[^>]*tools:node="remove" \/>//g; s/<manifest /<manifest package="genedge.demo" /' \
        "$main/AndroidManifest.xml" >"$out/manifest/AndroidManifest.xml"
    aapt package -f -M "$out/manifest/AndroidManifest.xml" -S "$main/res" -I "$framework" -F "$out/app.apk" \
        -J "$out/r" --min-sdk-version 26 --target-sdk-version 29
    ;;
app)
    listing=$here/node_modules/@nativescript/types-android/lib/android/android-platform-37.d.ts
    [ -f "$listing" ] || missing "no signatures of Android; run make android-tools"
    sources=${3:-$demo/app/src/main/kotlin/genedge/demo}
    rm -rf "$out/android"
    python3 "$here/signatures.py" "$listing" "$sources" "$out/android"
    compile "$out/core.jar:$stdlib:$kotlin/lib/annotations-13.0.jar" "$out/app.jar" \
        "$out/android" "$out/r" "$here/runtimes" "$sources"
    printf 'compiled: %s\n' "$sources"/*.kt
    ;;
*)
    echo "build.sh: $1 is unknown" >&2
    exit 2
    ;;
esac
