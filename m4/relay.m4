# SPDX-License-Identifier: MIT

# RELAY_REQUIRE(NAME, PKG-CONFIG MODULE, DEBIAN PACKAGE)
# Adds to RELAY_CFLAGS and RELAY_LIBS, or ends with the package to install.
AC_DEFUN([RELAY_REQUIRE], [
  PKG_CHECK_MODULES([$1], [$2], [], [
    AC_MSG_ERROR([$2 not found (Debian and Ubuntu: $3)])
  ])
  AS_VAR_APPEND([RELAY_CFLAGS], [" $$1[]_CFLAGS"])
  AS_VAR_APPEND([RELAY_LIBS], [" $$1[]_LIBS"])
  AC_SUBST([RELAY_CFLAGS])
  AC_SUBST([RELAY_LIBS])
])

# RELAY_APPEND_FLAGS(VARIABLE, FLAGS)
# Appends those FLAGS that the compiler takes without a warning. Flags that only
# make sense together are one word in double quotes.
AC_DEFUN([RELAY_APPEND_FLAGS],
  [_RELAY_EACH_FLAG([$1], [$2], [:])])

# RELAY_REQUIRE_FLAGS(VARIABLE, FLAGS)
# The same, but a flag that is not taken ends configure.
AC_DEFUN([RELAY_REQUIRE_FLAGS],
  [_RELAY_EACH_FLAG([$1], [$2], [AC_MSG_ERROR([$CC does not take $relay_flag])])])

# The probe is linked, so that it also answers for flags of the linker and for
# sanitizers whose run-time library is missing. -Werror, as clang only warns of
# options it does not know.
AC_DEFUN([_RELAY_EACH_FLAG], [
  for relay_flag in m4_normalize([$2]); do
    AS_VAR_PUSHDEF([relay_taken], [relay_cv_flag_$relay_flag])dnl
    AC_CACHE_CHECK([whether $CC takes $relay_flag], [relay_taken], [
      relay_saved_CFLAGS=$CFLAGS
      CFLAGS="$CFLAGS -Werror $relay_flag"
      AC_LINK_IFELSE([AC_LANG_SOURCE([[#include <stdlib.h>
int main(void)
{
	return EXIT_SUCCESS;
}]])], [AS_VAR_SET([relay_taken], [yes])], [AS_VAR_SET([relay_taken], [no])])
      CFLAGS=$relay_saved_CFLAGS
    ])
    AS_VAR_IF([relay_taken], [yes], [AS_VAR_APPEND([$1], [" $relay_flag"])], [$3])
    AS_VAR_POPDEF([relay_taken])dnl
  done
])
