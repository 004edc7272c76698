# SPDX-License-Identifier: Apache-2.0
# make bench: side by side with NBD servers and with the machine's limits; the figures
# go to build/bench/results.json. bench-long: more bytes and rounds. bench-scale: how
# cost grows with connections, exceptions and chunk size; plots into docs/plots.

BENCH_LIMIT  := $(BUILD)/tests/bench/bench_limit
BENCH_CROWD  := $(BUILD)/tests/bench/bench_crowd
BENCH_CHAIN  := $(BUILD)/tests/bench/bench_chain

$(BENCH_LIMIT): $(BUILD)/tests/bench/bench_limit.o $(call link_libs,base)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $< $(call link_libs,base) $(call sys_libs,base) -lssl -lcrypto

$(BENCH_CROWD) $(BENCH_CHAIN): %: %.o $(call link_libs,client)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $< -Wl,--start-group $(call link_libs,client) \
	    -Wl,--end-group $(call sys_libs,client)

.PHONY: bench bench-long bench-scale
bench bench-long bench-scale: all $(BENCH_LIMIT) $(BENCH_CROWD) $(BENCH_CHAIN)
bench:
	@python3 tests/bench/run.py --build $(BUILD)
bench-long:
	@python3 tests/bench/run.py --build $(BUILD) --long
bench-scale:
	@python3 tests/bench/scale.py --build $(BUILD)
