# The instruction-set levels of this processor, their flags, and the function that compiles one source per level.

set(KEXUE_HEADER_FLAGS -ffp-contract=fast -fno-math-errno -fno-trapping-math)
set(KEXUE_FLAGS -O2 ${KEXUE_HEADER_FLAGS})
set(KEXUE_LEVELS base)
set(KEXUE_FLAGS_base "")

set(processor "${CMAKE_SYSTEM_PROCESSOR}")
if(APPLE AND CMAKE_OSX_ARCHITECTURES)
  set(processor "${CMAKE_OSX_ARCHITECTURES}") # a list (universal build) matches nothing below
endif()
if(processor MATCHES "^(x86_64|amd64|AMD64)$")
  set(KEXUE_LEVELS v2 v3 v4)
  set(KEXUE_FLAGS_v2 -msse4.2 -mpopcnt)
  set(KEXUE_FLAGS_v3 ${KEXUE_FLAGS_v2} -mavx2 -mfma -mbmi -mbmi2 -mf16c -mlzcnt -mmovbe)
  set(KEXUE_FLAGS_v4 ${KEXUE_FLAGS_v3} -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl
                     -mprefer-vector-width=512)
endif()
if(KEXUE_CPU_LEVELS)
  foreach(level IN LISTS KEXUE_CPU_LEVELS)
    if(NOT level IN_LIST KEXUE_LEVELS)
      message(FATAL_ERROR "KEXUE_CPU_LEVELS: no level is named ${level}, but ${KEXUE_LEVELS}")
    endif()
  endforeach()
  set(KEXUE_LEVELS ${KEXUE_CPU_LEVELS})
endif()
list(GET KEXUE_LEVELS -1 KEXUE_HIGHEST_LEVEL)

# kexue_spell(<list>): clang-cl takes these flags behind a prefix.
macro(kexue_spell flags)
  if(MSVC)
    list(TRANSFORM ${flags} PREPEND "/clang:")
  endif()
endmacro()

# kexue_add_levels(<module> <source>...): compiles the sources once per level into <module>.
function(kexue_add_levels module)
  foreach(level IN LISTS KEXUE_LEVELS)
    set(objects kexue_${level})
    add_library(${objects} OBJECT ${ARGN})
    target_link_libraries(${objects} PRIVATE kexue)
    target_compile_definitions(${objects} PRIVATE KX_ISA=${level})
    set(optimised "")
    if(level STREQUAL "v2" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      set(optimised -O1 -fgcse) # a tenth slower, in two thirds of the time: for CPUs from before 2013
    endif()
    kexue_compile_options(${objects} ${KEXUE_FLAGS_${level}} ${optimised})
    target_sources(${module} PRIVATE $<TARGET_OBJECTS:${objects}>)
    string(TOUPPER "KX_LEVEL_${level}" definition)
    target_compile_definitions(${module} PRIVATE ${definition})
  endforeach()
endfunction()

# kexue_compile_options(<target> <flag>...): the common flags and the given ones.
function(kexue_compile_options target)
  set(flags ${KEXUE_FLAGS} ${ARGN})
  if(NOT MSVC)
    list(APPEND flags -Wall -Wextra)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    list(APPEND flags -Wno-uninitialized -Wno-maybe-uninitialized) # false alarms from its AVX-512 header
  endif()
  kexue_spell(flags)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${flags}>")
  set_target_properties(
    ${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
                         VISIBILITY_INLINES_HIDDEN ON INTERPROCEDURAL_OPTIMIZATION OFF)
  if(KEXUE_WERROR)
    set_target_properties(${target} PROPERTIES COMPILE_WARNING_AS_ERROR ON)
  endif()
endfunction()
