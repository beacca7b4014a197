# Use: -DCMAKE_PROJECT_INCLUDE=<this file>, when ROS comes from PyPI wheels (harmless with any other ROS).
#
# The CMake exports of the wheels list include folders of the machine that built them (/opt/python/...), and CMake
# refuses targets with include folders that do not exist. This drops those, after all find_package calls have run.
function(drop_missing_include_folders)
  get_property(imported_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported_targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(kept "")
    foreach(folder IN LISTS folders)
      if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")  # relative also covers generator expressions
        list(APPEND kept "${folder}")
      endif()
    endforeach()
    set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_include_folders)  # at the end of the top CMakeLists.txt; CMake >= 3.19
