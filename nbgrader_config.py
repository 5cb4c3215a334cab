"""Where nbgrader finds the course: the hand-written source in solutions/, what students get in exercises/."""

c = get_config()  # noqa: F821 - put here by nbgrader
c.CourseDirectory.course_id = "sam"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
