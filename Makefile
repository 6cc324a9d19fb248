# Every habit of the project is a target here; CONTRIBUTING.md says when to use which.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-all test-android android-tools android-assets lint typecheck pytest format vectors bundle pictures evaluate train bench bench-quantize bench-parts bench-unseen bench-weights bench-palette bench-shrink bench-student bench-curve bench-regularise student bench-kills bench-slower bench-large bench-steady clean

demo: $(VENV)/demo.stamp  ## export the bundled generator for OpenVINO, draw, verify
	$(BIN)/genedge export --target openvino --out artifacts --force
	$(BIN)/genedge generate "a red apple" --artifact artifacts/emoji-openvino-int8 --seed 1 --style 3d --out apple.png
	$(BIN)/genedge generate "grinning cat, noto style" --artifact artifacts/emoji-openvino-int8 --seed 1 --out cat.png
	$(BIN)/genedge generate "smiling face with sunglasses" --artifact artifacts/emoji-openvino-int8 --seed 1 --style twemoji --out sunglasses.png
	$(BIN)/genedge verify artifacts/emoji-openvino-int8

test: $(VENV)/dev.stamp lint typecheck pytest  ## everything that CI runs

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/dev.stamp  ## mypy sees the mapped package names only in an installed copy
	rm -rf build/types
	$(PIP) --no-deps --target build/types .
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml genedge

pytest: $(VENV)/dev.stamp  ## two processes; the tests of one file stay together
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/dev.stamp lint typecheck  ## the tests of `make test`, and the long grids: docs/pipelines-grid.md
	GENEDGE_GRID=build/grid.json $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "grid or not grid"
	$(BIN)/python tests/grid.py build/grid.json docs/pipelines-grid.md

ANDROID := android_demo/tools

test-android: $(VENV)/dev.stamp android-tools  ## the Kotlin of android_demo: compile, JUnit, both languages
	@bash $(ANDROID)/build.sh check
	GENEDGE_ANDROID=required $(BIN)/pytest -q tests/test_android.py tests/test_android_app.py

android-tools: $(ANDROID)/node_modules/.package-lock.json  ## the Kotlin compiler and ONNX Runtime for Node

$(ANDROID)/node_modules/.package-lock.json: $(ANDROID)/package-lock.json
	@command -v npm >/dev/null || { echo "android-tools: no npm; install Node.js with npm (Debian: npm)"; exit 3; }
	cd $(ANDROID) && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --silent
	touch $@

android-assets: $(VENV)/dev.stamp  ## the app's artifacts; says what they take on a device
	$(BIN)/python $(ANDROID)/assets.py

format: $(VENV)/dev.stamp  ## rewrite the sources as ruff likes them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vectors: $(VENV)/dev.stamp  ## tests/vectors: what other languages must equal
	$(BIN)/python tests/make_vectors.py

bundle: $(VENV)/dev.stamp  ## the artifacts that the wheel carries
	$(BIN)/genedge export --target onnx --out runtime/artifacts --force
	$(BIN)/genedge export --target openvino --out runtime/artifacts --force
	$(BIN)/genedge export upscale --target onnx --out runtime/artifacts --force
	$(BIN)/genedge export upscale --target openvino --out runtime/artifacts --force

pictures: $(VENV)/dev.stamp  ## docs/pictures: drawn by the bundled artifact
	$(BIN)/python tests/benchmarks/pictures.py docs/pictures

bench: $(VENV)/dev.stamp  ## docs/measured.md: accuracy, size, latency ratios, cold start
	$(BIN)/python tests/benchmarks/measure.py docs/measured.md

bench-quantize: $(VENV)/dev.stamp  ## docs/quantizers.md: int8 beside the runtimes' own quantizers
	$(PIP) -e '.[bench]'
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/quantizers.py docs/quantizers.md

bench-parts: $(VENV)/dev.stamp  ## docs/parts.md: what each part of the quantizer buys, by leaving it out
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/parts.py docs/parts.md emoji architectures:unet architectures:stylegan2 architectures:dcgan upscale

bench-unseen: $(VENV)/dev.stamp  ## the bundled int8 on prompts that neither calibration nor golden prompts have: 200 held-out pairs, then paraphrases
	$(BIN)/python tests/benchmarks/unseen.py build/held_out.txt build/paraphrases.txt
	$(BIN)/genedge verify runtime/artifacts/emoji-onnx-int8 --reference emoji --prompts-file build/held_out.txt
	-$(BIN)/genedge verify runtime/artifacts/emoji-onnx-int8 --reference emoji --prompts-file build/paraphrases.txt

bench-weights: $(VENV)/dev.stamp  ## docs/weight-only.md: int8 and int4 weights with float arithmetic, by target
	$(PIP) -e '.[bench]'
	$(BIN)/python tests/benchmarks/weight_only.py docs/weight-only.md

bench-palette: $(VENV)/dev.stamp  ## docs/palette.md: weights stored as a palette, 4 to 6 bits
	$(BIN)/python tests/benchmarks/palette.py docs/palette.md

bench-shrink: $(VENV)/dev.stamp  ## docs/shrink.md's tables: ratio and PSNR, losses, two processes
	$(BIN)/python tests/benchmarks/shrink.py build/shrink.md

bench-student: $(VENV)/train.stamp $(VENV)/dev.stamp  ## docs/student.md: teacher, student, pruned student, int8; half an hour
	$(BIN)/python tests/benchmarks/student.py docs/student.md

bench-kills: $(VENV)/dev.stamp  ## SIGKILL at 20 random moments; nothing may be half-written
	$(BIN)/python tests/benchmarks/kills.py 20

bench-large: $(VENV)/dev.stamp  ## docs/large.md: 860 M parameters, time and peak memory; an hour or two, 20 GB of disk
	$(BIN)/python tests/benchmarks/large.py docs/large.md

bench-curve: $(VENV)/train.stamp $(VENV)/dev.stamp  ## docs/curve.md: quality over the decoder's size, and what each loss buys; three hours on one core
	$(BIN)/python tests/benchmarks/curve.py docs/curve.md

bench-regularise: $(VENV)/train.stamp $(VENV)/dev.stamp  ## docs/regularise.md: what raises held-out pairs and what does not; two hours on one core
	$(BIN)/python tests/benchmarks/regularise.py docs/regularise.md

bench-slower: $(VENV)/dev.stamp  ## is an artifact that really is half as slow again caught?
	$(BIN)/python tests/benchmarks/slower.py

bench-steady: $(VENV)/dev.stamp  ## do good artifacts pass 50 times in a row? six of them: about 40 minutes
	$(BIN)/genedge export --target all --precision fp32 --out build/steady --force
	$(BIN)/genedge export --target all --precision int8 --out build/steady --force
	$(BIN)/python tests/benchmarks/steady.py build/steady/*

train: $(VENV)/train.stamp  ## emoji-teacher, into trained/; hours on two cores; resumes
	nice $(BIN)/genedge train emoji-teacher --out trained --work .train --cache .cache

student: $(VENV)/train.stamp $(VENV)/dev.stamp  ## emoji, into student/, from emoji-teacher and the art; some four hours on two cores; resumes
	$(BIN)/python -m genedge.toolkit.zoo.emoji.prompts .cache > prompts.txt
	nice $(BIN)/genedge prune emoji-teacher --components image --also image.entry --target-macs 95700000 --recover 500 --batch 32 --rate 5e-4 --prompts prompts.txt --out pruned --force
	nice $(BIN)/genedge train emoji --start pruned --out student --work .train-student --cache .cache --force

evaluate: $(VENV)/train.stamp  ## scores of the bundled generators against the real art
	for model in emoji emoji-teacher; do echo $$model; $(BIN)/genedge evaluate $$model --cache .cache; done

clean:
	rm -rf artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[toolkit,openvino]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/train.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[train]'
	touch $@
