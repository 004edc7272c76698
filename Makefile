# SPDX-License-Identifier: Apache-2.0
# Snapwire. `make help` lists the targets.
#
# One Makefile, no recursion: each layer is a static library of all .c files in
# its folder, and links only to layers below it. A variant (sanitizers, compiler)
# has a build folder of its own.

ifeq ($(origin CC),default)
CC        := gcc
endif
SAN       ?=
LTO       ?=
prefix    ?= /usr/local
DESTDIR   ?=
VERSION   := $(shell cat VERSION)

comma     := ,
BUILD     ?= build/$(notdir $(firstword $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PKG       := pkg-config

WARN      := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes \
             -Wmissing-prototypes -Wvla -Wundef -Wformat=2 -Werror
OPT       ?= -O2
CPPFLAGS_ALL := -I. -I$(BUILD)/gen -D_GNU_SOURCE -DSNAPWIRE_VERSION='"$(VERSION)"' $(CPPFLAGS)
CFLAGS_ALL := -std=gnu17 -g $(OPT) -fPIC -fno-omit-frame-pointer -fvisibility=hidden \
             -fstack-protector-strong $(WARN) $(if $(SAN),-fsanitize=$(SAN) \
             -fno-sanitize-recover=all) $(if $(LTO),-flto=auto) -pthread $(CFLAGS)
LDFLAGS_ALL := $(if $(SAN),-fsanitize=$(SAN)) $(if $(LTO),-flto=auto $(OPT)) -pthread \
             -Wl,--as-needed $(LDFLAGS)

# -- layers: lib_<name> is every .c of the folder; uses_<name> what it links to ----
LAYERS    := base io cow proto net shard volume registry service client host cli nbdkit
dir_base     := common/base
dir_io       := common/io
dir_cow      := common/cow
dir_proto    := proto
dir_net      := common/net
dir_shard    := daemon/shard
dir_volume   := daemon/volume
dir_registry := daemon/registry
dir_service  := daemon/service
dir_client   := client/lib
dir_host     := client/host
dir_cli      := client/snapctl
dir_nbdkit   := client/nbdkit

# link order: from the top down
uses_base     := base
uses_io       := io base
uses_cow      := cow io base
uses_proto    := proto base
uses_net      := net proto base
uses_shard    := shard net proto io base
uses_registry := registry base
uses_volume   := volume registry shard net proto cow io base
uses_service  := service volume registry shard net proto cow io base
uses_client   := client net proto base
uses_host     := host net proto base
uses_cli      := cli host client net proto cow io base
uses_nbdkit   := nbdkit host client net proto base

libs_base     := -luuid
libs_io       := -luring -lxxhash
libs_cow      :=
libs_proto    := -lprotobuf-c
libs_net      := -levent_core -levent_extra -levent_pthreads -lssl -lcrypto
libs_shard    :=
libs_registry := -lsqlite3
libs_volume   := -ljansson
libs_service  := -lconfuse -lsystemd
libs_client   :=
libs_host     := -lconfuse -lmount
libs_cli      := -ljansson -lsmartcols -lmount -lblkid -lcrypto
libs_nbdkit   := -luring

src        = $(sort $(wildcard $(dir_$(1))/*.c))
obj_of     = $(patsubst %.c,$(BUILD)/%.o,$(1))
lib        = $(BUILD)/lib/lib$(1).a
link_libs  = $(foreach l,$(uses_$(1)),$(call lib,$(l)))
sys_libs   = $(foreach l,$(uses_$(1)),$(libs_$(l)))

PB_C      := $(BUILD)/gen/proto/snapwire.pb-c.c
PB_H      := $(BUILD)/gen/proto/snapwire.pb-c.h

MK_FRAGMENTS := $(sort $(filter-out tests/tests.mk,$(wildcard deploy/*.mk tests/*/*.mk client/*/*.mk docs/*.mk)))

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:

PROGRAMS  := $(BUILD)/snapwired $(BUILD)/snapctl $(PROGRAMS_EXTRA)
.PHONY: all
all: $(PROGRAMS) $(BUILD)/libsnapwire.so $(BUILD)/libsnapwire.a compile_commands.json

# -- compiling -----------------------------------------------------------------
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS_ALL) $(filter-out -Wpedantic -Wconversion -Wshadow,$(CFLAGS_ALL)) -c -o $@ $<

# flags that change rebuild everything in that variant
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL))' | cmp -s - $@ || \
	    echo '$(subst ','\'',$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL))' > $@
.PHONY: FORCE
FORCE:

$(PB_C) $(PB_H) &: proto/snapwire.proto
	@mkdir -p $(BUILD)/gen
	@echo "  PROTOC  $<"
	@protoc-c --c_out=$(BUILD)/gen $<

define layer_rules
objs_$(1) := $$(call obj_of,$$(call src,$(1))) $(if $(filter proto,$(1)),$(PB_C:.c=.o))
$(call lib,$(1)): $$(objs_$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	@ar rcs $$@ $$^
$(if $(filter-out base io cow,$(1)),$$(objs_$(1)): | $(PB_H))
endef
$(foreach l,$(LAYERS),$(eval $(call layer_rules,$(l))))

# a program: $(call program,NAME,MAIN.c,LAYER)
define program
$(BUILD)/$(1): $(call obj_of,$(2)) $(call link_libs,$(3))
	@mkdir -p $$(@D)
	@echo "  LD      $$@"
	@$(CC) $(LDFLAGS_ALL) -o $$@ $(call obj_of,$(2)) -Wl,--start-group $(call link_libs,$(3)) \
	    -Wl,--end-group $(call sys_libs,$(3)) $(4)
$(call obj_of,$(2)): | $(PB_H)
endef
$(eval $(call program,snapwired,daemon/main.c,service))
$(eval $(call program,snapctl,client/snapctl/main/main.c,cli))

include tests/tests.mk $(MK_FRAGMENTS)

# -- checks of the house -----------------------------------------------------------
.PHONY: check-includes check-style format
check-includes:
	@tests/lib/check-includes

# What is deleted, but not yet for git, is listed too.
STYLE_SRC := $(wildcard $(shell git ls-files -co --exclude-standard '*.c' '*.h' 2>/dev/null))
check-style:
	@clang-format --dry-run --Werror $(STYLE_SRC)
	@tests/lib/check-style $(STYLE_SRC)
format:
	@clang-format -i $(STYLE_SRC)

compile_commands.json: Makefile
	@deploy/compile-commands '$(subst ','\'',$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL))' > $@

.PHONY: clean help print-build
print-build:
	@echo $(BUILD)
clean:
	rm -rf build compile_commands.json
help:
	@deploy/make-help

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
