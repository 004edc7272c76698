# SPDX-License-Identifier: Apache-2.0
# make install: programs, library, manual pages, completions, unit, example configuration.
# make uninstall takes them away again, with the same prefix and DESTDIR; configuration,
# certificates and state stay.

bindir      ?= $(prefix)/bin
libdir      ?= $(prefix)/lib
includedir  ?= $(prefix)/include
mandir      ?= $(prefix)/share/man
sysconfdir  ?= $(if $(filter /usr,$(prefix)),/etc,$(prefix)/etc)
unitdir     ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
docdir      ?= $(prefix)/share/doc/snapwire
bashcompdir ?= $(prefix)/share/bash-completion/completions
# where Debian's zsh looks
zshcompdir  ?= $(prefix)/share/zsh/$(if $(filter /usr,$(prefix)),vendor-completions,site-functions)

MAN_PAGES := $(sort $(wildcard docs/man/*.[1-8]))
EXPAND    := sed -e 's|@bindir@|$(bindir)|g' -e 's|@sysconfdir@|$(sysconfdir)|g' \
             -e 's|@prefix@|$(prefix)|g' -e 's|@libdir@|$(libdir)|g' \
             -e 's|@includedir@|$(includedir)|g' -e 's|@VERSION@|$(VERSION)|g'

# the shared library is found at once; packages do that by themselves
.PHONY: install
install: all install-lib
	$(if $(DESTDIR),,-ldconfig)
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) \
	    $(DESTDIR)$(sysconfdir)/snapwire $(DESTDIR)$(docdir)/docs/plots $(DESTDIR)$(bashcompdir) \
	    $(DESTDIR)$(zshcompdir)
	install -m 755 $(PROGRAMS) $(DESTDIR)$(bindir)/
	$(EXPAND) deploy/systemd/snapwired.service.in > $(DESTDIR)$(unitdir)/snapwired.service
	install -m 644 deploy/systemd/snapwire.sysusers $(DESTDIR)$(sysusersdir)/snapwire.conf
	$(EXPAND) deploy/snapwired.conf.in > $(DESTDIR)$(sysconfdir)/snapwire/snapwired.conf.example
	chmod 644 $(DESTDIR)$(unitdir)/snapwired.service $(DESTDIR)$(sysconfdir)/snapwire/*.example
	install -m 644 deploy/completions/snapctl.bash $(DESTDIR)$(bashcompdir)/snapctl
	install -m 644 deploy/completions/_snapctl $(DESTDIR)$(zshcompdir)/
	install -m 644 README.md LICENSE $(DESTDIR)$(docdir)/
	install -m 644 docs/*.md $(DESTDIR)$(docdir)/docs/
	install -m 644 docs/plots/*.svg $(DESTDIR)$(docdir)/docs/plots/
	for page in $(MAN_PAGES); do \
	    section=$${page##*.}; \
	    install -D -m 644 $$page $(DESTDIR)$(mandir)/man$$section/$${page##*/} || exit 1; \
	done

.PHONY: uninstall
uninstall: uninstall-lib uninstall-nbdkit
	rm -f $(patsubst %,$(DESTDIR)$(bindir)/%,$(notdir $(PROGRAMS))) \
	    $(DESTDIR)$(unitdir)/snapwired.service $(DESTDIR)$(sysusersdir)/snapwire.conf \
	    $(DESTDIR)$(sysconfdir)/snapwire/snapwired.conf.example \
	    $(DESTDIR)$(bashcompdir)/snapctl $(DESTDIR)$(zshcompdir)/_snapctl \
	    $(foreach p,$(MAN_PAGES),$(DESTDIR)$(mandir)/man$(subst .,,$(suffix $(p)))/$(notdir $(p)))
	rm -rf $(DESTDIR)$(docdir)
	-rmdir --ignore-fail-on-non-empty $(DESTDIR)$(sysconfdir)/snapwire
	$(if $(DESTDIR),,-ldconfig)
