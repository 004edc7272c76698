# SPDX-License-Identifier: Apache-2.0
# Fuzzing. Each tests/fuzz/fuzz_<parser>.c is a target; tests/fuzz/corpus/<parser>/ its
# corpus.
#   make check-fuzz   run every corpus through its target once, with this compiler
#   make fuzz         libFuzzer (clang), FUZZ_SECONDS each; FUZZ="fuzz_frame …" picks

FUZZ_SECONDS ?= 30
FUZZ_LAYERS  := volume registry shard net proto cow io base
FUZZ_SRC     := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_NAMES   := $(patsubst tests/fuzz/%.c,%,$(FUZZ_SRC))
FUZZ         ?= $(FUZZ_NAMES)
FUZZ_LIBS    := $(foreach l,$(FUZZ_LAYERS),$(call lib,$(l)))
FUZZ_LINK     = -Wl,--start-group $(FUZZ_LIBS) -Wl,--end-group \
                $(foreach l,$(FUZZ_LAYERS),$(libs_$(l)))
FUZZ_REPLAYS := $(FUZZ_NAMES:%=$(BUILD)/tests/fuzz/%)
FUZZ_BINS    := $(FUZZ_NAMES:%=$(BUILD)/tests/fuzz/lib%)

$(FUZZ_REPLAYS:=.o) $(BUILD)/tests/fuzz/replay_main.o: | $(PB_H)
$(FUZZ_REPLAYS): %: %.o $(BUILD)/tests/fuzz/replay_main.o $(FUZZ_LIBS)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $< $(BUILD)/tests/fuzz/replay_main.o $(FUZZ_LINK)

$(FUZZ_BINS): $(BUILD)/tests/fuzz/lib%: $(BUILD)/tests/fuzz/%.o $(FUZZ_LIBS)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $< $(FUZZ_LINK)

.PHONY: check-fuzz fuzz fuzz-run
check-fuzz: $(FUZZ_REPLAYS)
	@for t in $(FUZZ_NAMES); do $(BUILD)/tests/fuzz/$$t tests/fuzz/corpus/$${t#fuzz_} || exit 1; done

fuzz:
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined fuzz-run

fuzz-run: $(FUZZ:%=$(BUILD)/tests/fuzz/lib%)
	@for t in $(FUZZ); do \
	    new=$(BUILD)/corpus/$${t#fuzz_}; mkdir -p $$new; \
	    echo "  FUZZ    $$t ($(FUZZ_SECONDS) s)"; \
	    $(BUILD)/tests/fuzz/lib$$t -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
	        -verbosity=0 -artifact_prefix=$(BUILD)/corpus/$$t- $$new \
	        tests/fuzz/corpus/$${t#fuzz_} || exit 1; \
	done
