{{/* The tiny model that comes with the image, put into the claim where no folder has its name yet. Whoever comes first does it. */}}
{{- define "thumbwheel.seed" -}}
- name: seed
  image: {{ include "thumbwheel.image" (list . "services") }}
  imagePullPolicy: {{ .Values.images.services.pullPolicy }}
  command: [python3, -c]
  args:
    - |
      import os, shutil, tempfile
      if not os.path.exists("/models/nano-0"):
          folder = tempfile.mkdtemp(dir="/models", prefix=".seed-")
          shutil.copytree("/app/models/nano", folder + "/nano")
          try:
              os.rename(folder + "/nano", "/models/nano-0")
          except OSError:
              assert os.path.exists("/models/nano-0")
          shutil.rmtree(folder)
  {{- include "thumbwheel.containerSecurity" . | nindent 2 }}
  resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 128Mi}}
  volumeMounts:
    - {name: models, mountPath: /models}
{{- end -}}

{{/* Whether it is wanted. */}}
{{- define "thumbwheel.seeds" -}}{{ if and .Values.models.seed (eq .Values.models.initial "nano-0") }}yes{{ end }}{{- end -}}
