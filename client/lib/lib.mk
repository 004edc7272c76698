# SPDX-License-Identifier: Apache-2.0
# libsnapwire: the shared library with versioned symbols, the static one with the
# lower layers merged in and their symbols made local, the example, pkg-config.

libdir       ?= $(prefix)/lib
includedir   ?= $(prefix)/include
SNAPWIRE_SO  := libsnapwire.so.0
SNAPWIRE_FULL := libsnapwire.so.0.$(VERSION)
lib_map      := client/lib/libsnapwire.map
lib_headers  := client/lib/snapwire.h client/lib/snapwire_hosted.h client/lib/snapwire_writer.h

# the functions that the headers declare, and those that the library exports
lib_declared = sed -n '/^SNAPWIRE_API/,/;/p' $(lib_headers) | tr '\n' ' ' | \
    grep -o 'snapwire_[a-z0-9_]* *(' | tr -d ' (' | grep -v '_cb$$' | sort -u
lib_exported = nm -D --defined-only $@ | sed -n 's/.* T \(snapwire_[a-z0-9_]*\)@@.*/\1/p' | sort -u

$(BUILD)/libsnapwire.so: $(call link_libs,client) $(lib_map) $(lib_headers) client/lib/lib.mk
	@echo "  LD      $@"
	@$(CC) $(LDFLAGS_ALL) -shared -Wl,-soname,$(SNAPWIRE_SO) -Wl,--version-script,$(lib_map) \
	    $(if $(SAN),,-Wl,-z,defs) -Wl,-z,relro,-z,now -o $@ \
	    -Wl,--whole-archive $(call lib,client) -Wl,--no-whole-archive \
	    -Wl,--start-group $(filter-out $(call lib,client),$(call link_libs,client)) \
	    -Wl,--end-group $(call sys_libs,client)
	@ln -sf libsnapwire.so $(BUILD)/$(SNAPWIRE_SO)
	@$(lib_declared) > $@.declared; $(lib_exported) | diff $@.declared - || { rm -f $@; \
	    echo "$(lib_map) and $(lib_headers) do not agree" >&2; exit 1; }
	@rm -f $@.declared

# One object of all layers, so that names of the lower ones cannot meet the program's.
$(BUILD)/libsnapwire.a: $(call link_libs,client) client/lib/lib.mk
	@echo "  AR      $@"
	@$(CC) $(if $(LTO),$(filter-out -Wl$(comma)%,$(LDFLAGS_ALL)) -flinker-output=nolto-rel) \
	    -r -nostdlib -o $(BUILD)/libsnapwire.o \
	    -Wl,--whole-archive $(call lib,client) -Wl,--no-whole-archive \
	    -Wl,--start-group $(filter-out $(call lib,client),$(call link_libs,client)) -Wl,--end-group
	@$(if $(SAN),,objcopy --localize-hidden $(BUILD)/libsnapwire.o)
	@rm -f $@
	@ar rcs $@ $(BUILD)/libsnapwire.o
	@rm -f $(BUILD)/libsnapwire.o

# the example is built as a program of somebody else's would be: header and library only
$(BUILD)/examples/cow_stream: client/lib/examples/cow_stream.c $(lib_headers) \
    $(BUILD)/libsnapwire.so
	@mkdir -p $(@D)
	@echo "  LD      $@"
	@$(CC) -Iclient/lib $(filter-out -I%,$(CPPFLAGS_ALL)) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $< \
	    -L$(BUILD) -lsnapwire -Wl,-rpath,'$$ORIGIN/..'
all: $(BUILD)/examples/cow_stream

.PHONY: install-lib
install-lib: $(BUILD)/libsnapwire.so $(BUILD)/libsnapwire.a
	install -d $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir)
	install -m 755 $(BUILD)/libsnapwire.so $(DESTDIR)$(libdir)/$(SNAPWIRE_FULL)
	ln -sf $(SNAPWIRE_FULL) $(DESTDIR)$(libdir)/$(SNAPWIRE_SO)
	ln -sf $(SNAPWIRE_SO) $(DESTDIR)$(libdir)/libsnapwire.so
	install -m 644 $(BUILD)/libsnapwire.a $(DESTDIR)$(libdir)/libsnapwire.a
	install -m 644 $(lib_headers) $(DESTDIR)$(includedir)/
	sed -e 's|@prefix@|$(prefix)|' -e 's|@libdir@|$(libdir)|' -e 's|@VERSION@|$(VERSION)|' \
	    client/lib/snapwire.pc.in > $(DESTDIR)$(libdir)/pkgconfig/snapwire.pc
	chmod 644 $(DESTDIR)$(libdir)/pkgconfig/snapwire.pc

.PHONY: uninstall-lib
uninstall-lib:
	rm -f $(patsubst %,$(DESTDIR)$(libdir)/%,$(SNAPWIRE_FULL) $(SNAPWIRE_SO) libsnapwire.so \
	    libsnapwire.a pkgconfig/snapwire.pc) \
	    $(patsubst %,$(DESTDIR)$(includedir)/%,$(notdir $(lib_headers)))

$(patsubst %,%.o,$(call unit_bin,client)): | $(PB_H)
