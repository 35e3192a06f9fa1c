# Umlaut's one makefile.  `make help` lists the targets.
#
# Rooms (folders with a library each) and their sources are found by wildcard;
# who may include whom is tests/check/rooms.txt.  All output goes to $(O).

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
CC := gcc
AR := ar
CLANG ?= clang
PKG_CONFIG ?= pkg-config

# DEBUG=1: AddressSanitizer and UBSan, no optimisation.
DEBUG ?= 0
ifeq ($(DEBUG),1)
O ?= build/debug
SAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT := -O1 -g -DUMLAUT_DEBUG
else
O ?= build
SAN :=
OPT := -O2 -g -D_FORTIFY_SOURCE=3
endif

WARN := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes \
	-Wmissing-prototypes -Wvla -Wundef -Wformat=2 -Wwrite-strings -Wcast-qual \
	-Wduplicated-cond -Wlogical-op -Wpointer-arith -Werror
# The generated code is not ours to keep clean.
GENWARN := -w
DEFS := -D_GNU_SOURCE -DUMLAUT_VERSION='"$(VERSION)"'
# Generated headers count as system headers: their macros are not ours to keep clean.
# So dependencies are made with -MD: -MMD would leave them out, and a change of the
# protocol would leave objects with the old structures behind.
INCS := -I. -isystem $(O)/gen
CFLAGS ?=
ALL_CFLAGS = -std=gnu11 $(OPT) $(SAN) $(WARN) $(DEFS) $(INCS) -fno-common -fstack-protector-strong \
	-fstack-clash-protection -fPIE $(CFLAGS)

PKGS := libzmq libuv libprotobuf-c sqlite3 libmnl yaml-0.1 libcrypto libzstd libseccomp libcap libsodium
ifeq ($(filter help clean distclean packages,$(MAKECMDGOALS)),)
PKG_LIBS := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null || echo missing)
ifeq ($(PKG_LIBS),missing)
$(error Libraries are missing. Install what deploy/packages lists: ./deploy/install-packages build)
endif
endif
LDFLAGS ?=
ALL_LDFLAGS = $(SAN) -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)

# ---------------------------------------------------------------- rooms
ROOMS := lib spec image guest guest/image guest/runner node-agent scheduler/core scheduler/store \
	scheduler/serve clusterctl
room_src = $(filter-out $(1)/main.c,$(wildcard $(1)/*.c))
room_lib = $(O)/rooms/lib$(subst /,_,$(1)).a
PROTO_C := $(O)/gen/proto/umlaut.pb-c.c
PROTO_H := $(O)/gen/proto/umlaut.pb-c.h
PROTO_O := $(O)/obj/gen/umlaut.pb-c.o
LIBS = $(foreach r,$(ROOMS),$(call room_lib,$(r)))
obj = $(patsubst %.c,$(O)/obj/%.o,$(1))

BIN := $(O)/bin
PROGRAMS := $(BIN)/clusterctl $(BIN)/umlaut-scheduler $(BIN)/umlaut-agent $(BIN)/umlaut-guest \
	$(BIN)/umlaut-init

.PHONY: all
all: programs
.PHONY: programs
programs: $(PROGRAMS)

define room_rules
$$(call room_lib,$(1)): $$(call obj,$$(call room_src,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(Q)$$(AR) rcs $$@ $$^
endef
$(foreach r,$(ROOMS),$(eval $(call room_rules,$(r))))

Q := @
ifeq ($(V),1)
Q :=
endif

# ---------------------------------------------------------------- generated code
$(PROTO_C): proto/umlaut.proto
	@mkdir -p $(@D)
	@echo "  PROTOC  $<"
	$(Q)protoc-c --proto_path=proto --c_out=$(O)/gen/proto $<
$(PROTO_H): $(PROTO_C)
	@test -f $@
$(PROTO_O): $(PROTO_C)
	@mkdir -p $(@D)
	@echo "  CC      umlaut.pb-c.c"
	$(Q)$(CC) $(ALL_CFLAGS) $(GENWARN) -I$(O)/gen/proto -c -o $@ $<

# ---------------------------------------------------------------- objects
# Flags that decide what an object is: a change of them rebuilds.
$(O)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CC) $(subst ','\'',$(ALL_CFLAGS)) $(subst ','\'',$(ALL_LDFLAGS))' | cmp -s - $@ || \
		printf '%s\n' '$(CC) $(subst ','\'',$(ALL_CFLAGS)) $(subst ','\'',$(ALL_LDFLAGS))' > $@
FORCE:

$(O)/obj/%.o: %.c $(O)/flags | $(PROTO_H)
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(Q)$(CC) $(ALL_CFLAGS) -MD -MP -c -o $@ $<

# ---------------------------------------------------------------- programs
# program: main object, rooms in link order
define program_rules
$(BIN)/$(1): $(call obj,$(2)) $(foreach r,$(3),$(call room_lib,$(r))) $(PROTO_O)
	@mkdir -p $$(@D)
	@echo "  LD      $(1)"
	$$(Q)$$(CC) $$(ALL_LDFLAGS) -o $$@ $(call obj,$(2)) -Wl,--start-group \
		$(foreach r,$(3),$(call room_lib,$(r))) -Wl,--end-group $(PROTO_O) $$(PROGRAM_LIBS) -lm
endef
PROGRAM_LIBS = $(PKG_LIBS)
$(eval $(call program_rules,clusterctl,clusterctl/main.c,clusterctl spec image guest/image guest lib))
# clusterctl starts anew for every command: the libraries are in it where their archives are there
# (all of Debian's are), all but the C library.  Start and end are 1 ms in place of 3.  SHARED=1:
# as the other programs.  ZeroMQ's own libraries: clusterctl/link/zmq_left_out.c.
archive = $(filter /%,$(shell $(CC) -print-file-name=$(1)))
ARCHIVES := $(foreach l,zmq uv_a protobuf-c yaml crypto zstd sodium bsd md stdc++,$(call archive,lib$(l).a))
SHARED ?= $(if $(filter 10,$(words $(ARCHIVES))),0,1)
ifeq ($(SHARED)$(SAN),0)
CTL_LINK := $(O)/link/zmq.ld $(O)/obj/clusterctl/link/zmq_left_out.o
CTL_LIBS := -Wl,--gc-sections $(CTL_LINK) -Wl,--start-group $(ARCHIVES) -Wl,--end-group -static-libgcc
else
CTL_LINK :=
CTL_LIBS := $(PKG_LIBS)
endif
$(O)/link/zmq.ld: $(call archive,libzmq.a)
	@mkdir -p $(@D)
	$(Q)nm -u $< 2>/dev/null | awk '$$2 ~ /^(gss_|Norm|pgm_)/ {f[$$2]} $$2 ~ /^(GSS_|NORM_)/ {d[$$2]} \
		END {for (n in f) if (n != "pgm_init" && n != "pgm_shutdown") print n " = zmq_left_out;"; \
			for (n in d) print n " = zmq_left_out_data;"}' | sort > $@
$(BIN)/clusterctl: $(CTL_LINK)
$(BIN)/clusterctl: PROGRAM_LIBS = $(CTL_LIBS)
$(eval $(call program_rules,umlaut-scheduler,scheduler/main.c,scheduler/serve scheduler/core scheduler/store spec image lib))
$(eval $(call program_rules,umlaut-agent,node-agent/main.c,node-agent guest image lib))
$(eval $(call program_rules,umlaut-guest,guest/runner/main.c,guest/runner guest lib))

# umlaut-init runs inside guests: static, small, never sanitized.
INIT_SRC := $(wildcard guest/init/*.c) lib/err.c lib/buf.c lib/str.c lib/net.c lib/wire.c lib/tar.c
INIT_OBJ := $(patsubst %.c,$(O)/obj-init/%.o,$(INIT_SRC)) $(O)/obj-init/gen/umlaut.pb-c.o
INIT_CFLAGS = -std=gnu11 -Os -g $(WARN) $(DEFS) $(INCS) -D_FORTIFY_SOURCE=2 -fno-common \
	-ffunction-sections -fdata-sections -fstack-protector-strong -fno-pie
$(O)/obj-init/gen/umlaut.pb-c.o: $(PROTO_C)
	@mkdir -p $(@D)
	$(Q)$(CC) $(INIT_CFLAGS) $(GENWARN) -I$(O)/gen/proto -c -o $@ $<
$(O)/obj-init/%.o: %.c $(O)/flags | $(PROTO_H)
	@mkdir -p $(@D)
	@echo "  CC      $< (init)"
	$(Q)$(CC) $(INIT_CFLAGS) -MD -MP -c -o $@ $<
$(BIN)/umlaut-init: $(INIT_OBJ)
	@mkdir -p $(@D)
	@echo "  LD      umlaut-init"
	$(Q)$(CC) -static -no-pie -Wl,--gc-sections -s -o $@ $^ -lprotobuf-c

# ---------------------------------------------------------------- unit tests
# tests/unit/ROOM/test_X.c is one cmocka program, always built with sanitizers.
UNIT_SRC := $(wildcard tests/unit/*/test_*.c tests/unit/*/*/test_*.c)
UNIT_BIN := $(patsubst tests/unit/%.c,$(O)/unit/%,$(UNIT_SRC))
# Boots guests with the program itself.
$(filter $(O)/unit/guest/init/%,$(UNIT_BIN)): $(BIN)/umlaut-init
.PHONY: unit-programs
unit-programs: $(UNIT_BIN)
.PRECIOUS: $(O)/obj/%.o
# Starts every program.
$(O)/unit/lib/test_usage: | $(PROGRAMS)
# The runner's tests start the programs themselves, with sanitizers.
$(filter $(O)/unit/guest/runner/%,$(UNIT_BIN)): | $(BIN)/umlaut-guest $(BIN)/umlaut-init
# The scheduler and the runner are never one program: both have a serve_open().
unit_libs = $(if $(findstring /scheduler/,$(1)),$(filter-out %libguest_runner.a,$(LIBS)),$(LIBS))
# A line "LDFLAGS: ..." in a comment of the test adds linker flags (-Wl,--wrap=...).
$(UNIT_BIN): $(O)/unit/%: $(O)/obj/tests/unit/%.o $(LIBS) $(PROTO_O)
	@mkdir -p $(@D)
	@echo "  LD      $(@:$(O)/%=%)"
	$(Q)$(CC) $(ALL_LDFLAGS) $$(sed -n 's/^ \* LDFLAGS: //p' tests/unit/$*.c) -o $@ $< \
		-Wl,--start-group $(call unit_libs,$@) -Wl,--end-group $(PROTO_O) $(PKG_LIBS) -lcmocka -lm

SANDIR := $(if $(filter 1,$(DEBUG)),$(O),$(O)/san)
.PHONY: unit check rules lint format bench kernel fuzz help install uninstall clean
unit:
	$(Q)$(MAKE) --no-print-directory DEBUG=1 O=$(SANDIR) unit-programs
	$(Q)tests/check/run-unit $(SANDIR)/unit

# ---------------------------------------------------------------- checks
rules: programs $(LIBS)
	$(Q)tests/check/run-rules $(O)
check: rules unit

lint: $(PROTO_H)
	$(Q)tests/check/run-lint $(O)

format:
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

# The guest kernel "fast"; ends at once when it is up to date (NEWEST=1 asks for newer).
# It becomes kernel fast of the cluster of the quick start, where that runs; of any other by
# clusterctl kernel build.
CONTEXT := build/umlaut-context.yaml
kernel:
	$(Q)guest/kernel/build --out build/kernel $(if $(filter 1,$(NEWEST)),--newest)
	$(Q)if [ -x build/bin/clusterctl ] && [ -f $(CONTEXT) ]; then \
		env -u UMLAUT_SERVER UMLAUT_CONFIG=$(CONTEXT) build/bin/clusterctl kernel add build/kernel/linux-fast --name fast --replace || \
			echo "not added to the cluster of the quick start; 'make kernel' again does it when that runs"; \
	else echo "the quick start takes it by itself; into another cluster: clusterctl kernel build"; fi

# tests/bench/bench_X.c: programs that the benchmarks use.
BENCH_SRC := $(wildcard tests/bench/bench_*.c)
BENCH_BIN := $(patsubst tests/bench/%.c,$(O)/bench/%,$(BENCH_SRC))
$(BENCH_BIN): $(O)/bench/%: $(O)/obj/tests/bench/%.o $(LIBS) $(PROTO_O)
	@mkdir -p $(@D)
	@echo "  LD      $(@:$(O)/%=%)"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $< -Wl,--start-group $(LIBS) -Wl,--end-group $(PROTO_O) \
		$(PKG_LIBS) -lm
.PHONY: bench-programs
bench-programs: $(BENCH_BIN)
bench: programs bench-programs
	$(Q)tests/bench/run

# ---------------------------------------------------------------- the simulator
# tests/sim: the scheduler and the agents over a pretended machine, in virtual time.
SIM_WRAPS := proc_random proc_random_u64 proc_mono_ms proc_boot_ms proc_wall_ms proc_wall_us proc_boot_id \
	curve_generate curve_load_or_make curve_zap_open curve_zap_close time log_enabled log_write log_rate_pass \
	overlay_underlay_mtu rename stat access unlink statvfs opendir readdir closedir open write \
	fdatasync close $(shell sed -n 's/^ \* WRAP: //p' tests/sim/bugs.c tests/sim/bugs_agent.c)
SIM_OBJ := $(call obj,$(wildcard tests/sim/*.c))
SIM_ROOMS := scheduler/serve scheduler/core scheduler/store node-agent guest spec image lib
$(O)/sim/sim: $(SIM_OBJ) $(foreach r,$(SIM_ROOMS),$(call room_lib,$(r))) $(PROTO_O)
	@mkdir -p $(@D)
	@echo "  LD      sim"
	$(Q)$(CC) $(ALL_LDFLAGS) $(SIM_WRAPS:%=-Wl,--wrap=%) -o $@ $(SIM_OBJ) -Wl,--start-group \
		$(foreach r,$(SIM_ROOMS),$(call room_lib,$(r))) -Wl,--end-group $(PROTO_O) $(PKG_LIBS) -lm
SEEDS ?= 10000
.PHONY: sim
sim: $(O)/sim/sim
	$(Q)tests/sim/run $(O) $(SEEDS)

# ---------------------------------------------------------------- fuzzing
# tests/fuzz/fuzz_X.c: libFuzzer targets, with a corpus in tests/fuzz/corpus/X.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(FUZZ_SRC))
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
FUZZ_ROOMS := lib spec image guest guest/image clusterctl scheduler/serve scheduler/core scheduler/store
FUZZ_OBJ := $(patsubst %.c,$(O)/obj-fuzz/%.o,$(foreach r,$(FUZZ_ROOMS),$(call room_src,$(r))))
$(O)/obj-fuzz/%.o: %.c $(O)/flags | $(PROTO_H)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -std=gnu11 -O1 -g $(FUZZ_FLAGS) $(DEFS) $(INCS) -w -MD -MP -c -o $@ $<
$(O)/obj-fuzz/gen.o: $(PROTO_C)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -std=gnu11 -O1 -g $(FUZZ_FLAGS) $(DEFS) $(INCS) -I$(O)/gen/proto -w -c -o $@ $<
$(O)/rooms/fuzz.a: $(FUZZ_OBJ) $(O)/obj-fuzz/gen.o
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(FUZZ_BIN): $(O)/fuzz/%: $(O)/obj-fuzz/tests/fuzz/%.o $(O)/rooms/fuzz.a
	@mkdir -p $(@D)
	@echo "  LD      $(@:$(O)/%=%)"
	$(Q)$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $< $(O)/rooms/fuzz.a $(PKG_LIBS) -lm
.PHONY: fuzz-programs
fuzz-programs: $(FUZZ_BIN)
fuzz: fuzz-programs
	$(Q)tests/fuzz/run $(O)

# ---------------------------------------------------------------- install
install: programs
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/umlaut \
		$(DESTDIR)$(PREFIX)/share/doc/umlaut
	install -m 0755 $(BIN)/clusterctl $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 $(BIN)/umlaut-scheduler $(BIN)/umlaut-agent $(DESTDIR)$(PREFIX)/sbin/
	install -m 0755 $(BIN)/umlaut-guest $(BIN)/umlaut-init $(DESTDIR)$(PREFIX)/lib/umlaut/
	install -d $(DESTDIR)$(PREFIX)/lib/umlaut/kernel
	install -m 0755 guest/kernel/build deploy/install-packages $(DESTDIR)$(PREFIX)/lib/umlaut/kernel/
	install -m 0644 deploy/packages $(DESTDIR)$(PREFIX)/lib/umlaut/kernel/
	install -m 0644 guest/kernel/fast.config $(DESTDIR)$(PREFIX)/lib/umlaut/kernel/
	install -d $(DESTDIR)$(PREFIX)/lib/umlaut/kernel/patches
	install -m 0644 guest/kernel/patches/*.patch $(DESTDIR)$(PREFIX)/lib/umlaut/kernel/patches/
	install -m 0644 README.md docs/*.md $(DESTDIR)$(PREFIX)/share/doc/umlaut/
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/clusterctl $(DESTDIR)$(PREFIX)/sbin/umlaut-scheduler \
		$(DESTDIR)$(PREFIX)/sbin/umlaut-agent
	rm -rf $(DESTDIR)$(PREFIX)/lib/umlaut $(DESTDIR)$(PREFIX)/share/doc/umlaut

clean:
	rm -rf $(O)

help:
	@echo "make             build everything into $(O)/bin"
	@echo "make check       house rules and unit tests (sanitizers)"
	@echo "make lint        clang-format, clang-tidy, cppcheck, include boundaries"
	@echo "make kernel      build the guest kernel fast (5 to 10 minutes, once)"
	@echo "make bench       benchmarks with real guests (root)"
	@echo "make sim         the simulator: SEEDS of the whole cluster in virtual time"
	@echo "make fuzz        a short run of every fuzz target"
	@echo "make DEBUG=1     a build with AddressSanitizer and UBSan in build/debug"
	@echo "make SHARED=1    clusterctl with shared libraries, as the other programs"
	@echo "make install     into DESTDIR/PREFIX ($(DESTDIR)$(PREFIX))"
	@echo "make clean       remove $(O)"
	@echo "V=1 shows the commands"

# A kernel that is being built there has such files of its own.
-include $(shell find $(O) -path '$(O)/kernel*' -prune -o -type f -name '*.d' -print 2>/dev/null)
