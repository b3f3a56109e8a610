# The usual commands. Everything but setup goes through CMake's presets (docs/building.md).
#   CMAKE_FLAGS   more for CMake, such as -DTANDEM_WERROR=ON
#   TEST_JOBS     tests at a time
#   PREFIX        where `make install` installs; DESTDIR is put in front of it
.PHONY: all help setup demo test lint bench clean install asan tsan configure

CMAKE_FLAGS ?=
TEST_JOBS ?= 2
PREFIX ?= /usr/local

all: configure ## build build/tandem and the library
	cmake --build --preset release --target tandem tandem_library

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## install the packages that are missing
	@scripts/setup

demo: ## setup, build, then quantize, run and compare the demo model
	@scripts/setup
	@$(MAKE) --no-print-directory all
	@scripts/demo

test: ## setup, build with tests, and run every test
	@scripts/setup
	@$(MAKE) --no-print-directory configure
	cmake --build --preset release
	ctest --preset release --parallel $(TEST_JOBS)

lint: ## format, layering and clang-tidy
	@scripts/setup --lint --clang
	scripts/check-format --require
	scripts/check-layering
	scripts/check-tidy

bench: ## speeds of the kernels, then of the demo model
	@$(MAKE) --no-print-directory all CMAKE_FLAGS="-DTANDEM_BENCH=ON $(CMAKE_FLAGS)"
	cmake --build --preset release --target kernels_bench
	build/kernels_bench
	scripts/demo bench

asan: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/setup --fuzz
	cmake --preset asan $(CMAKE_FLAGS)
	cmake --build --preset asan
	ctest --preset asan --parallel $(TEST_JOBS)

tsan: ## every test under ThreadSanitizer
	@scripts/setup --fuzz
	cmake --preset tsan $(CMAKE_FLAGS)
	cmake --build --preset tsan
	ctest --preset tsan --parallel $(TEST_JOBS)

install: all ## install below PREFIX
	DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

clean: ## remove build/ and out/
	rm -rf build out

configure:
	@output=$$(cmake --preset release $(CMAKE_FLAGS) 2>&1) || { echo "$$output" >&2; exit 1; }
