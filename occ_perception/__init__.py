"""3D occupancy perception for robots and cars: a ROS-free core with thin ROS 2 front ends.

``import occ_perception`` needs neither ROS nor a GPU.  ``extend_path`` lets a source checkout and the
message classes generated into site-packages (``occ_perception.msg``) act as one package.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
