# SPDX-License-Identifier: Apache-2.0
# Benchmarks: tests/bench/bench_<noun>.c, each a plain program that prints its figures.

BENCH_MAP := $(BUILD)/tests/bench/bench_map
$(BENCH_MAP): $(BUILD)/tests/bench/bench_map.o $(call link_libs,cow)
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -o $@ $< -Wl,--start-group $(call link_libs,cow) \
	    -Wl,--end-group $(call sys_libs,cow)

.PHONY: bench-map
bench-map: $(BENCH_MAP)
	@$<
