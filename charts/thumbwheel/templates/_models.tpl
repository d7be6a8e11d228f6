{{/* Init container that copies the tiny model from the image into the claim unless a folder of
     that name exists. Concurrent pods are safe. */}}
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

{{/* Non-empty if the tiny model is copied. */}}
{{- define "thumbwheel.seeds" -}}{{ if and .Values.models.seed (eq .Values.models.initial "nano-0") }}yes{{ end }}{{- end -}}
