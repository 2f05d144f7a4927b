# demo: a gateway and two guests to enter.   test: everything, against real clients.
# regress: OpenSSH's own tests, against this gateway.
# docs: every link, key, default, metric and command of README and docs/ held against what there is.
# lint: style, types, rooms, generated code. prove: the tests at their full counts. clean-root: demo in a new Debian.
# bench, bench-quick: how fast it is, beside sshd and others; docs/speed.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Debian packages that the tests use as judges; apt installs what is missing, where it may.
TEST_COMMANDS := ssh:openssh-client /usr/lib/openssh/sftp-server:openssh-sftp-server openssl:openssl unshare:util-linux \
    /usr/sbin/sshd:openssh-server dbclient:dropbear-bin plink:putty-tools psftp:putty-tools puttygen:putty-tools rsync:rsync \
    git:git lftp:lftp sshfs:sshfs tmux:tmux vim:vim nc:netcat-openbsd curl:curl zsh:zsh fish:fish rclone:rclone setfacl:acl \
    objcopy:binutils /bin/busybox:busybox-static ld-musl-config:musl shellcheck:shellcheck cpio:cpio zstd:zstd lz4:lz4 chromium:chromium \
    chromedriver:chromium-driver /usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf:fonts-dejavu-core promtool:prometheus strace:strace systemd-analyze:systemd libpython
# OpenSSH's own tests, and what they call.
REGRESS_COMMANDS := /usr/lib/openssh/regress/run-tests:openssh-tests ssh:openssh-client plink:putty-tools \
	telnet:telnet unshare:util-linux

# What is measured beside ours, and by which clients.
BENCH_COMMANDS := ssh:openssh-client /usr/sbin/sshd:openssh-server /usr/lib/openssh/sftp-server:openssh-sftp-server \
	websocketd:websocketd

.PHONY: demo test newer regress docs lint prove bench bench-quick bench-guard bench-accept clean-root proto wheel clean
.DELETE_ON_ERROR:

demo: $(BIN)/.demo
	-@sh tests/needs ssh:openssh-client unshare:util-linux
	$(BIN)/vmgate demo $(DEMO) --kernel build/vm

test: $(BIN)/.dev
	sh tests/needs $(TEST_COMMANDS)
	$(BIN)/python -m pytest -n $${JOBS:-3} --dist worksteal $(TESTS)

prove: $(BIN)/.dev
	sh tests/needs $(TEST_COMMANDS)
	PROVE=1 $(BIN)/python -m pytest -n $${JOBS:-3} --dist worksteal --timeout 3600 $(TESTS)

regress: $(BIN)/.dev
	sh tests/needs $(REGRESS_COMMANDS)
	$(BIN)/python -m tests.openssh --jobs $${JOBS:-3} $(SCRIPTS)

bench: $(BIN)/.dev
	sh tests/needs $(BENCH_COMMANDS)
	$(BIN)/python -m bench $(BENCH)

bench-quick: $(BIN)/.dev
	sh tests/needs $(BENCH_COMMANDS)
	$(BIN)/python -m bench --quick $(BENCH)

# What CI runs of it: 2 minutes, against the ratios in bench/accepted.json, which bench-accept writes anew.
bench-guard: $(BIN)/.dev
	sh tests/needs $(BENCH_COMMANDS)
	$(BIN)/python -m bench --guard

bench-accept: $(BIN)/.dev
	$(BIN)/python -m bench --guard --accept

# What is soonest tried, on the newest Python that this machine has besides.
newer: NEWER = $(shell tests/newer $(PYTHON))
newer:
	@[ -n "$(NEWER)" ] || echo "No newer Python on this machine"
	@[ -z "$(NEWER)" ] || $(MAKE) --no-print-directory test PYTHON=$(NEWER) VENV=$(VENV)-newer TESTS="tests/gateway tests/guest tests/cli tests/whole/test_twistd.py"

docs: $(BIN)/.dev
	sh tests/needs ssh:openssh-client openssl:openssl curl:curl unshare:util-linux systemd-analyze:systemd promtool:prometheus
	$(BIN)/python -m pytest -n 2 tests/gateway/test_docs.py tests/gateway/test_config_docs.py tests/gateway/test_dashboards.py \
	    tests/whole/test_commands.py

# The whole of README's first command in a new Debian of its own.
clean-root:
	tests/clean-root

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	sh proto/check $(BIN)/python

proto: $(BIN)/.dev
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. proto/*.proto

wheel: $(BIN)/.dev
	$(BIN)/python -m build --wheel --outdir dist .

# A plain install, not an editable one, which would hide the plugin from twistd.
SOURCES := setup.cfg pyproject.toml constraints.txt $(shell find gateway agent proto twisted -name '*.py' -o -name '*.proto' -o -name '*.pyi' -o -name '*.json' -o -name '*.c' -o -type f -path '*/page/*')

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || sh tests/needs python
	$(PYTHON) -m venv $(VENV)

$(BIN)/.demo: $(BIN)/python $(SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --upgrade --force-reinstall --no-deps . && \
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt .
	touch $@

# libvirt-python comes as source alone.
$(BIN)/.dev: $(BIN)/.demo
	sh tests/needs cc:gcc pkg-config:pkg-config /usr/include/libvirt/libvirt.h:libvirt-dev python-headers
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt '.[dev]'
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps autobahntestsuite  # Python 2: read, not run
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
